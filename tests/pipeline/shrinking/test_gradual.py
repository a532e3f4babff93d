"""A network made smaller in several steps, and trained in between."""

import json

import jax
import numpy as np
import pytest
import shrunken
from shrunken import CONFIG

from bbo import compaction
from bbo.models.create import kept_channels
from bbo.pipeline.configured import model_of
from bbo.pipeline.run import set_up
from bbo.pipeline.shrinking import gradual as stepwise
from bbo.pipeline.shrinking import shrink as shrinking
from bbo.pipeline.shrinking.goal import Goal
from bbo.types import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run():
    return shrunken.set_up()


@pytest.fixture(scope="module")
def variables(run):
    return shrunken.trained(run)


def test_no_iteration(variables):
    with pytest.raises(UsageError, match="iterations is 0"):
        stepwise.shrink_gradually(
            CONFIG,
            variables,
            Goal("macs", 0.5),
            iterations=0,
            train=lambda *_: variables,
        )


@pytest.mark.parametrize("target", [Goal("sparsity", 0.75), Goal("macs", 0.1)])
def test_several_iterations_come_to_the_same_size(variables, target):
    seen, first = [], [variables]

    def train(shrunk, number):
        seen.append((number, kept_channels(shrunk.variables["params"])["conv4"]))
        first.append(compaction.smaller(first[-1], shrunk.cut))
        return first[-1]  # as if rewound

    shrunk = stepwise.shrink_gradually(CONFIG, variables, target, iterations=3, train=train)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert [count for _, count in seen] == sorted((count for _, count in seen), reverse=True)
    sizes = [
        shrunken.macs_of(
            set_up(CONFIG),
            model_of(CONFIG, kept=kept_channels(of["params"])),
            of,
        )
        for of in (shrunk.variables, variables)
    ]
    assert shrunk.left["macs"] == pytest.approx(sizes[0] / sizes[1], rel=1e-9)
    if target.measure == "macs":
        assert shrunk.left["macs"] <= 0.1
    else:  # int() rounds down what is dropped, each time
        assert seen[-1][1] in (8, 9, 10)
        assert shrunk.sparsity == pytest.approx(0.75, rel=1e-9)


def test_training_further_learns_and_keeps_the_widths(run, variables, tmp_path):
    shrunk = shrinking.shrink(run, variables, Goal("sparsity", 0.5))
    before = shrinking.accuracy_of(CONFIG, shrunk.variables)
    options = {"epochs": 4, "learning_rate": 0.05}
    tuned = stepwise.fine_tune(shrunk.variables, CONFIG, tmp_path / "fine_tune", **options)
    assert kept_channels(tuned["params"]) == kept_channels(shrunk.variables["params"])
    assert shrinking.accuracy_of(CONFIG, tuned) > before + 0.2
    again = stepwise.fine_tune(shrunk.variables, CONFIG, tmp_path / "fine_tune", **options)
    for one, other in zip(jax.tree.leaves(tuned), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def conv4(variables):
    return kept_channels(variables["params"])["conv4"]


def test_latency_is_of_the_whole_in_every_iteration(variables, tmp_path, monkeypatch):
    """Of 32 channels 11 may be left, then 8: by 7/8 and all of what is to go."""
    clocks, memory = [], tmp_path / "small" / "latencies.jsonl"

    def clock_of(run, dense, target):
        clocks.append(conv4(dense))
        return lambda network: conv4(network.variables) / 32

    monkeypatch.setattr(stepwise, "clock_of", clock_of)
    left = []

    def shrink():
        return stepwise.shrink_gradually(
            CONFIG,
            variables,
            Goal("latency", 0.25),
            iterations=2,
            train=lambda shrunk, number: left.append(conv4(shrunk.variables)) or shrunk.variables,
            memory=memory,
        )

    shrunk = shrink()
    assert clocks == [32] and left == [10, 8]
    assert shrunk.left["latency"] == 0.25
    lines = [json.loads(line) for line in memory.read_text().splitlines()]
    assert [line["latency"] for line in lines] == [10 / 32, 8 / 32]
    # Measured otherwise, the same call comes to the same network.
    monkeypatch.setattr(stepwise, "clock_of", lambda *_: lambda network: 0.1)
    again = shrink()
    assert left == [10, 8, 10, 8] and again.left == shrunk.left
    assert len(memory.read_text().splitlines()) == 2
