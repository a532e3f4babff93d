"""Pruning and training in turn: what is removed stays removed, and what is left is trained."""

import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bbo import files, trees
from bbo.pipeline import stages as iterating
from bbo.pipeline.experiment import Result, run_experiment
from bbo.pruning import schedules
from bbo.settings.config import ExperimentConfig, override
from bbo.types import Preempted, UsageError

SMALL = override(
    ExperimentConfig(),
    epochs=2,
    batch_size=256,
    width=0.25,
    select="last",
    granularity=("filter",),
    recovery=("none",),
    prune_iterations=2,
    prune_to=0.75,
    retrain_epochs=2,
)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cubic", [0.5203, 0.7875, 0.8859, 0.9]),
        ("linear", [0.225, 0.45, 0.675, 0.9]),
        ("geometric", [0.4377, 0.6838, 0.8222, 0.9]),
    ],
)
def test_schedules_by_hand(schedule, shares):
    assert schedules.removed_after(0.9, 4, schedule) == shares


def test_one_iteration_removes_all():
    assert schedules.removed_after(0.9, 1) == [0.9]


class Watched(NamedTuple):
    """What a run gave, and what it did."""

    result: Result
    stages: list
    """What was pruned and measured: sparsities and networks."""
    asked: list[int]
    """The counts of work with which it asked whether to stop."""


def watched(config, folder):
    seen, asked, prune = [], [], iterating.prune_network

    def spy(run, network, folder, poll):
        seen.append((run.config.pruning.sparsities, jax.tree.map(np.asarray, network.variables)))
        return prune(run, network, folder, poll)

    def go_on(count):
        asked.append(count)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iterating, "prune_network", spy)
        result = run_experiment(config, folder, go_on)
    return Watched(result, seen, asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody has stopped."""
    return watched(SMALL, tmp_path_factory.mktemp("runs") / "whole")


def zeros(variables):
    """Which numbers are zero, of the kernels and of what dies with their filters."""
    leaves = trees.flatten(variables["params"])
    return {name: leaf == 0 for name, leaf in leaves.items() if name != "head/bias"}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"scope": "global", "criterion": "random"}])
def test_what_is_removed_stays_removed_and_the_rest_is_trained(changes, whole, tmp_path):
    result, stages, _ = watched(override(SMALL, **changes), tmp_path) if changes else whole
    assert [sparsities for sparsities, _ in stages] == [(0.0,), (0.6562,), (0.75,)]
    (_, dense), (_, first), (_, second) = stages
    for before, after in ((dense, first), (first, second)):
        was, now = zeros(before), zeros(after)
        for name in was:
            assert now[name][was[name]].all() or "kernel" not in name
            changed = trees.flatten(after["params"])[name] != trees.flatten(before["params"])[name]
            assert changed[~now[name]].mean() > 0.9
        assert sum(leaf.sum() for leaf in now.values()) > sum(leaf.sum() for leaf in was.values())
    # Measuring prunes again: that removes what is removed, and nothing else.
    filters = [leaf.all(axis=(0, 1, 2)) for leaf in zeros(second).values() if leaf.ndim == 4]
    left = 1 - np.concatenate(filters).mean()
    assert result.curve["sparsity"].tolist() == [0, 0.6562, 0.75]
    np.testing.assert_allclose(result.curve["units_kept"].to_numpy()[-1], left, rtol=1e-6)


@pytest.mark.slow
def test_an_iteration_is_recorded_beside_the_others(whole):
    result, root = whole.result, whole.result.workdir
    for folder in (root, root / "iteration_1", root / "iteration_2"):
        assert [line["epoch"] for line in files.read_lines(folder / "metrics.jsonl")] == [1, 2]
        assert not (folder / "curve.jsonl").exists()
    assert not list((root / "iteration_1").glob("config.json"))  # it is no run of its own
    taken = [
        line["seconds"] for path in root.rglob("metrics.jsonl") for line in files.read_lines(path)
    ]
    assert len(taken) == 6
    np.testing.assert_allclose(result.summary["seconds_to_train"], sum(taken), atol=0.01)


@pytest.mark.slow
def test_rewinding_trains_what_is_left_from_its_initial_weights(tmp_path, monkeypatch):
    begun, train = [], iterating.train_network

    def spy(run, *args, **options):
        begun.append(jax.tree.map(np.asarray, run.state))
        return train(run, *args, **options)

    monkeypatch.setattr(iterating, "train_network", spy)
    run_experiment(override(SMALL, rewind=True, learning_rate=0.05), tmp_path)
    initial = trees.flatten(begun[0].params)
    for state, share in zip(begun[1:], (0.6562, 0.75), strict=True):
        assert state.step == 0
        for name, leaf in trees.flatten(state.params).items():
            left = leaf != 0
            np.testing.assert_array_equal(leaf[left], initial[name][left])
            if leaf.ndim == 4:
                assert left.any(axis=(0, 1, 2)).sum() == leaf.shape[-1] - int(
                    leaf.shape[-1] * share
                )


@pytest.mark.slow
def test_a_run_stopped_in_an_iteration_goes_on_to_the_same_result(whole, tmp_path):
    for number, limit in enumerate((4, 24, 16)):
        calls = itertools.count()
        with pytest.raises(Preempted):
            run_experiment(SMALL, tmp_path, lambda _, c=calls, n=limit: next(c) == n)
        trained = [path.parent.name for path in tmp_path.rglob("metrics.jsonl")]
        assert len(trained) == 1 + number  # in the whole network, then in each iteration
    assert run_experiment(SMALL, tmp_path).curve.equals(whole.result.curve)


@pytest.mark.slow
def test_counts_of_work_never_fall(whole):
    assert len(whole.stages) == 3 and len(whole.asked) > 30
    assert whole.asked == sorted(whole.asked)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"granularity": ("filter", "weight")}, "set granularity to one of filter, weight"),
        ({"recovery": ("none", "bias")}, "set recovery to none, batch_norm or both"),
        ({"prune_iterations": 0}, "prune_iterations is 0; it must be >= 1"),
        ({"prune_to": 1.0}, "prune_to is 1.0; it must be in"),
        ({"prune_schedule": "slow"}, "prune_schedule is 'slow'"),
        ({"retrain_rate": 0.0}, "retrain_rate is 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, told):
    with pytest.raises(UsageError, match=told):
        override(SMALL, **changes)
