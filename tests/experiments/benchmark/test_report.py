"""The tables of a benchmark, from a record made by hand."""

import json
import pathlib

import pytest

from experiments.benchmark.report import (
    comparison_table,
    short_table,
    step_figure,
    step_table,
    write,
)

RECORDS = sorted(
    (pathlib.Path(__file__).parents[3] / "experiments/results/benchmarks").glob("*/record.json")
)

ABOUT = {
    "model": "vgg16",
    "width": 1,
    "dataset": "cifar10",
    "dtype": "float32",
    "batch_size": 128,
    "samples": 5,
    "of_samples": 9,
}


def row(framework, variant, noise, median, **more):
    times = {"median": median, "low": 0.9 * median, "high": 1.1 * median}
    times["images_per_second"] = 128 / median
    return ABOUT | {"framework": framework, "variant": variant, "noise": noise} | times | more


RECORD = {
    "peaks": {"float32": 1e11},
    "steps": [
        row("jax", "", "none", 2.0, flops=1e11, to_no_noise=1.0),
        row("jax", "", "batch_bridgeout", 2.2, flops=1e11, to_no_noise=1.09),
        row("torch", "NCHW", "none", 1.6, to_no_noise=1.0),
        row("torch", "channels_last", "none", 1.25, to_no_noise=1.0),
        row("torch", "channels_last bfloat16", "none", 0.5, to_no_noise=1.0),
    ],
    "curves": [],
}


def test_a_step_is_compared_with_its_like():
    plain, noisy, *others = step_table(RECORD)
    assert plain["step (ms)"] == "2000.0" and plain["quartiles"] == "1800.0 to 2200.0"
    assert plain["to no noise"] == "-" and noisy["to no noise"] == "1.090"
    # The best of float32; bfloat16 is another thing, and torch has no noise of this kind here.
    assert plain["to best PyTorch"] == "1.600" and noisy["to best PyTorch"] == "-"
    assert plain["of peak"] == "50 %" and noisy["of peak"] == "45 %"
    assert [other["to best PyTorch"] for other in others] == ["-"] * 3
    assert [other["program"] for other in others][1] == "torch channels_last"


def test_in_short_a_network_is_a_line():
    (line,) = short_table(RECORD)
    assert line["step (ms)"] == "2000" and line["to best PyTorch"] == "1.600"
    assert line["batch_bridgeout to none"] == "1.090"
    assert line["batch_bridgeout to best PyTorch"] == "-"


def test_an_earlier_record_is_compared_where_it_measured_the_same():
    earlier = {"steps": [row("jax", "", "none", 1.0), row("jax", "", "dropout", 1.0)]}
    (found,) = comparison_table(RECORD, earlier)
    assert found["now / before"] == "2.000" and found["before (ms)"] == "1000.0"
    assert comparison_table(RECORD, None) == []


def test_a_bar_for_each_program():
    (axes,) = step_figure(RECORD).axes
    assert [bar.get_width() for bar in axes.patches] == [64, 128 / 2.2, 80, 102.4, 256]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_what_was_recorded_gives_the_tables_beside_it(path, tmp_path):
    text = write(json.loads(path.read_text()), None, tmp_path)
    assert text == (path.parent / "benchmark.md").read_text()
