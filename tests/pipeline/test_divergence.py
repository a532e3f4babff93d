"""A network of NaN is never taken for a finished one, though its losses may be finite."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import SMALL

from bbo.pipeline.divergence import check_finite
from bbo.pipeline.experiment import run_experiment, run_members
from bbo.pipeline.loop import train_network
from bbo.pipeline.progress import Progress
from bbo.pipeline.run import set_up
from bbo.settings.config import override
from bbo.training.step import TrainState
from bbo.types import Preempted, RunError


def progress(kernel=1.0, variance=1.0, average=1.0, calls=()):
    state = TrainState(
        jnp.int32(0),
        {"conv": {"kernel": jnp.full(3, kernel)}},
        {"norm": {"var": jnp.full(2, variance)}},
        (),
        ({"kernel": jnp.full(3, average)}, {}),
    )
    return Progress(state, None, epochs=2, collected=list(calls), seconds=0.0)


def call(loss=0.5, **finite):
    return {"loss": np.float32(loss), "accuracy": np.float32(0.1)} | finite


RUN = types.SimpleNamespace(steps_per_call=4)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (progress(kernel=np.nan), "in epoch 2: params/conv/kernel is not finite (3 of 3 numbers)"),
        (progress(variance=np.inf), "batch_stats/norm/var is not finite"),
        (progress(average=np.nan), "average/0/kernel is not finite"),
        (
            progress(kernel=np.nan, calls=[call(), call(finite=False), call(finite=False)]),
            "in step 8 of epoch 3: params/conv/kernel is",
        ),
        (progress(calls=[call(), call(), call(np.inf)]), "step 12 of epoch 3: the loss is inf; "),
    ],
)
def test_it_is_told_where_and_of_what(found, told, tmp_path):
    with pytest.raises(RunError, match="^training diverged .*; lower learning_rate") as error:
        check_finite(RUN, found, tmp_path / "7")  # pyright: ignore
    assert told in str(error.value)
    assert f"; the last checkpoint before is {tmp_path}/7; " in str(error.value)
    with pytest.raises(RunError, match="there is no checkpoint before"):
        check_finite(RUN, found, None)  # pyright: ignore


def test_what_is_finite_passes():
    check_finite(RUN, progress(calls=[call(), call(finite=True)]), None)  # pyright: ignore


def test_a_run_of_nan_is_not_finished(tmp_path):
    config = override(SMALL, learning_rate=1e4)
    with pytest.raises(RunError, match=r"diverged in step \d of epoch 1: .*params/conv1/kernel"):
        run_experiment(config, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"summary.json", "curve.csv"}
    assert not list((tmp_path / "checkpoints").iterdir())
    # Nor is it saved when it is told to stop within the epoch.
    with pytest.raises(RunError, match=r"diverged in step \d of epoch 1"):
        run_experiment(config, tmp_path, lambda count: count == 5)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_of_runs_in_step_one_diverges(tmp_path):
    configs = [override(SMALL, learning_rate=1e4, seed=seed) for seed in (0, 1)]
    with pytest.raises(RunError, match=r"diverged in step \d of epoch 1"):
        run_members(configs, [tmp_path / "0", tmp_path / "1"])
    assert not (tmp_path / "0/summary.json").exists()


def test_the_last_good_checkpoint_is_named(tmp_path):
    run = set_up(SMALL)

    def broken(state, images, choice):
        """Its losses stay finite."""
        state, metrics = run.programs.train(state, images, choice)
        params = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
        return state._replace(params=params), metrics | {"loss": jnp.float32(1)}

    with pytest.raises(Preempted):  # in the third step of the second epoch
        train_network(run, tmp_path, lambda count: count == 10)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"7", "10"}
    begun = run._replace(programs=run.programs._replace(train=broken))
    with pytest.raises(RunError, match=r"in step 4 of epoch 2: params/.*checkpoints/10;"):
        train_network(begun, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == kept
