"""Several steps in one call are the steps one after another, also when they are interrupted."""

import jax
import numpy as np
import pytest

from bbo import files
from bbo.pipeline import progress
from bbo.pipeline.experiment import run_experiment, run_members
from bbo.pipeline.run import set_up, training_batches
from bbo.settings.config import ExperimentConfig, override
from bbo.training.scanning import steps_per_call
from bbo.types import Preempted, UsageError

SMALL = override(
    ExperimentConfig(),
    epochs=2,
    batch_size=128,  # ten steps an epoch
    width=0.125,
    downscale=2,  # a convolution within a loop is slow on a CPU
    learning_rate=1e-3,  # a large one makes rounding grow from step to step
    noise="batch_bridgeout",
    target_fraction=1.0,  # ranks change with the last bit of a weight
    sparsities=(0.0, 0.5),
    granularity=("filter",),
)
IN_FIVES = override(SMALL, steps_per_call=6)


def losses(folder):
    return [record["train_loss"] for record in files.read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(("most", "steps", "found"), [(1, 7, 1), (8, 390, 6), (99, 22, 22)])
def test_calls_fill_an_epoch(most, steps, found):
    assert steps_per_call(most, of=steps) == found


@pytest.mark.slow
def test_a_call_takes_the_steps_one_after_another():
    one = set_up(SMALL)
    many = set_up(IN_FIVES, like=one)
    assert (one.steps_per_epoch, one.steps_per_call, many.steps_per_call) == (10, 1, 5)
    state, expected = progress.beginning(one).state, []
    for batch in training_batches(one, 1):
        state, metrics = one.programs.train(state, one.images["train"], batch)
        expected.append(float(metrics["loss"]))
    other, found = progress.beginning(many).state, []
    for batch in training_batches(many, 1):
        other, metrics = many.programs.train(other, many.images["train"], batch)
        found += metrics["loss"].tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert int(other.step) == 10
    for mine, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of the run that takes one step in a call."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    run_experiment(SMALL, folder)
    return losses(folder)


@pytest.mark.slow
def test_a_run_that_was_stopped_between_calls_goes_on(alone, tmp_path):
    run_experiment(IN_FIVES, tmp_path / "undisturbed")
    for stop in (1, 4):  # after a call of the first epoch, and of the second
        with pytest.raises(Preempted):
            run_experiment(IN_FIVES, tmp_path / "stopped", lambda count: count == stop)  # noqa: B023
    run_experiment(IN_FIVES, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "undisturbed")
    np.testing.assert_allclose(losses(tmp_path / "stopped"), alone, rtol=1e-5)


@pytest.mark.slow
def test_members_take_several_steps_in_a_call_too(alone, tmp_path):
    configs = [override(IN_FIVES, seed=seed) for seed in (0, 1)]
    with pytest.raises(Preempted):
        run_members(configs, [tmp_path / "0", tmp_path / "1"], lambda count: count == 1)
    run_members(configs, [tmp_path / "0", tmp_path / "1"])
    np.testing.assert_allclose(losses(tmp_path / "0"), alone, rtol=1e-5)
    assert losses(tmp_path / "1") != losses(tmp_path / "0")


def test_pmap_takes_one_step_in_a_call():
    with pytest.raises(UsageError, match="steps_per_call above 1 needs parallel=jit"):
        set_up(override(IN_FIVES, parallel="pmap"))
