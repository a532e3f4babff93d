"""The generator of random numbers is the one asked for, all through a run."""

import jax
import numpy as np
import pytest

from bbo.pipeline.run import set_up, training_batches
from bbo.pipeline.vmapped import check_alike
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError

pytestmark = pytest.mark.slow

SMALL = override(
    ExperimentConfig(), width=0.25, batch_size=64, noise="batch_bridgeout", generator="rbg"
)


def three_losses(config):
    run = set_up(config)
    state, losses = run.state, []
    for batch, _ in zip(training_batches(run, 1), range(3), strict=False):
        state, metrics = run.programs.train(state, run.images["train"], batch)
        losses.append(float(metrics["loss"]))
    return run, losses


def test_a_run_draws_from_it_and_repeats_itself():
    run, losses = three_losses(SMALL)
    assert {jax.random.key_impl(rng) for rng in run.rngs.values()} == {"rbg"}
    assert losses == three_losses(SMALL)[1]
    assert losses != three_losses(override(SMALL, generator="threefry"))[1]
    assert np.isfinite(losses).all()


def test_runs_that_are_trained_together_do_without_it():
    with pytest.raises(UsageError, match="need generator=threefry"):
        check_alike([override(SMALL, seed=seed) for seed in (0, 1)])
