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


def check_close(state, other):
    """The networks of two states of training are the same up to rounding."""
    networks = [jax.tree.leaves((x.params, x.batch_stats)) for x in (state, other)]
    for one, another in zip(*networks, strict=True):
        np.testing.assert_allclose(one, another, rtol=0, atol=2e-6)


@pytest.mark.parametrize("regulariser", ["batch_bridgeout", "dropout", "bridgeout"])
def test_the_result_does_not_depend_on_the_devices(regulariser):
    config = override(SMALL, noise=regulariser)
    losses, state = five_steps(config, 1)
    for parallel in ("jit", "pmap"):
        spread_losses, spread = five_steps(override(config, parallel=parallel), 8)
        np.testing.assert_allclose(spread_losses, losses, rtol=1e-6)
        check_close(spread, state)


def mean_over_parts(config, parts):
    """The state after one step of each part of a batch alone, averaged; without momentum."""
    run = set_up(config, devices=jax.devices()[:1])
    batch = next(iter(training_batches(run, 1)))
    size = config.train.batch_size // parts
    states = []
    for part in range(parts):
        rows = {name: x[part * size : (part + 1) * size] for name, x in batch.items()}
        fresh = jax.tree.map(jax.numpy.copy, run.state)
        states.append(run.programs.train(fresh, run.images["train"], rows)[0])
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *states)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_with_norms_of_its_own_each_device_takes_its_rows_for_a_batch(parallel):
    config = override(SMALL, noise="batch_bridgeout", momentum=0.0, weight_decay=0.0)
    own = override(config, norm_scope="device", parallel=parallel)
    run = set_up(own, devices=jax.devices()[:4])
    batch = next(iter(training_batches(run, 1)))
    found, _ = run.programs.train(run.state, run.images["train"], batch)
    expected = mean_over_parts(config, 4)
    check_close(found, expected)


def test_on_one_device_the_scope_of_norms_changes_nothing():
    losses, state = five_steps(SMALL, 1)
    same_losses, same = five_steps(override(SMALL, norm_scope="device"), 1)
    assert same_losses == losses
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(state)))


def test_pmap_refuses_bfloat16_on_cpu():
    with pytest.raises(UsageError, match="use parallel=jit"):
        set_up(override(SMALL, parallel="pmap", dtype="bfloat16"))
