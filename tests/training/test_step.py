"""Training: the same result on any number of devices; noise per step or per example."""

import jax
import numpy as np
import pytest

from bbo.pipeline.run import set_up, training_batches
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError

pytestmark = pytest.mark.slow

SMALL = override(ExperimentConfig(), epochs=2, batch_size=64, width=0.25, weight_decay=5e-3)


def five_steps(config, num_devices):
    """Losses and final state of five steps on this many of the fake devices."""
    run = set_up(config, devices=jax.devices()[:num_devices])
    state, losses = run.state, []
    for batch, _ in zip(training_batches(run, 1), range(5), strict=False):
        state, metrics = run.programs.train(state, run.images["train"], batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.tree.map(np.asarray, state)


@pytest.mark.parametrize("regulariser", ["batch_bridgeout", "dropout", "bridgeout"])
def test_the_result_does_not_depend_on_the_devices(regulariser):
    config = override(SMALL, noise=regulariser)
    losses, state = five_steps(config, 1)
    for parallel in ("jit", "pmap"):
        spread_losses, spread = five_steps(override(config, parallel=parallel), 8)
        np.testing.assert_allclose(spread_losses, losses, rtol=1e-6)
        for name in ("params", "batch_stats"):
            for one, many in zip(
                jax.tree.leaves(getattr(state, name)),
                jax.tree.leaves(getattr(spread, name)),
                strict=True,
            ):
                np.testing.assert_allclose(many, one, rtol=0, atol=2e-6)


def test_pmap_refuses_bfloat16_on_cpu():
    with pytest.raises(UsageError, match="use parallel=jit"):
        set_up(override(SMALL, parallel="pmap", dtype="bfloat16"))
