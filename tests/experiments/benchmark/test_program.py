"""The benchmark, as a user runs it: a record, tables, a plot; and what it refuses."""

import json

import pytest
from mistakes import check_told

from bbo import files
from experiments.benchmark import program as benchmark
from experiments.benchmark import start_times
from experiments.command_line.program import run_program

FLAGS = (
    "--models=small_cnn --dataset=digits --width=0.25 --batch_sizes=64 --seconds=0 "
    "--curve_points=2 --test_images=64 --noise=batch_bridgeout"
).split()


def call(*arguments):
    return run_program(benchmark.main, benchmark.FLAGS, ["benchmark", *arguments])


@pytest.fixture
def start_at_once(monkeypatch):
    monkeypatch.setattr(
        start_times, "import_seconds", lambda: {"import bbo.pipeline.experiment": 1.0}
    )


@pytest.mark.slow
def test_a_benchmark_leaves_a_record_tables_and_a_plot(tmp_path, capsys, start_at_once):
    assert call(*FLAGS, f"--out={tmp_path}/first") == 0
    record = json.loads((tmp_path / "first/record.json").read_text())
    assert [row["noise"] for row in record["steps"]] == ["none", "batch_bridgeout"]
    assert "--batch_sizes=64" in record["command"] and str(tmp_path) not in record["command"]
    for row in record["steps"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["samples"] >= 5 and row["flops"] > 0
        assert row["images_per_second"] == pytest.approx(64 / row["median"])
    assert record["steps"][0]["to_no_noise"] == 1.0
    assert record["curves"][0]["points"] == 2
    assert (tmp_path / "first/steps.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert (tmp_path / "first/benchmark.md").read_text() in printed
    assert "| small_cnn width 0.25, batch 64 | jax float32 | batch_bridgeout |" in printed
    # Twice as slow as half of it was.
    for row in record["steps"]:
        row["median"] /= 2
    files.write_json(tmp_path / "half.json", record)
    again = ("--noise=none", "--curve_points=0", f"--compare={tmp_path}/half.json")
    assert call(*FLAGS[:-1], *again, f"--out={tmp_path}/second") == 0
    assert "| now / before |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "out is missing"),
        (["--out=x", "--batch_sizes=many"], "batch_sizes is 'many'"),
        (["--out=x", "--models=alexnet"], "model is 'alexnet'"),
        (["--out=x", "--compare=/nowhere.json"], "compare /nowhere.json is not"),
        (["--out=x", "--noise=loud"], "noise"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, told, capsys):
    assert call(*arguments) == 2
    check_told(capsys, told)


def test_without_torch_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    assert call("--out=x", "--against=torch") == 2
    assert "pip install 'batch-bridgeout[bench]'" in capsys.readouterr().err
