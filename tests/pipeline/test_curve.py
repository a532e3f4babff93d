"""The recoveries of a run look at training images alone, and each mends what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning, trees
from bbo.pipeline.curve import _recovery_batches, curve_tools, recovery_context
from bbo.pipeline.run import set_up, variables_of
from bbo.pruning.recovery.by_name import FUNCTIONS
from bbo.settings.catalog import RECOVERIES
from bbo.settings.config import ExperimentConfig, override

pytestmark = pytest.mark.slow
CONFIG = override(ExperimentConfig(), batch_size=64, width=0.25, recovery_images=300)


@pytest.fixture(scope="module")
def pruned_run():
    """A run on one device, its network as it begins, and half of it removed."""
    run = set_up(CONFIG, devices=jax.devices()[:1])
    dense = variables_of(run.state)
    scored = pruning.scores(dense["params"], criterion="l2", granularity="filter")
    masks = pruning.masks(
        dense["params"], pruning.ranks(scored), pruning.drop_counts(scored, 0.5), meaning="clean"
    )
    return run, dense, dense | {"params": pruning.apply_masks(dense["params"], masks)}


def mended(run, dense, pruned, name):
    polls = []
    context = recovery_context(run, _recovery_batches(run), lambda: polls.append(1))
    return FUNCTIONS[name](context, dense, pruned), len(polls)


def test_recovery_batches_are_full_and_hold_no_held_out_image(pruned_run):
    run, _, _ = pruned_run
    batches = _recovery_batches(run)()
    rows = np.concatenate([batch["row"] for batch in batches])
    assert [len(batch["row"]) for batch in batches] == [64] * 4  # of 300
    assert len(set(rows)) == 256 and set(rows) <= set(run.rows["train"])
    assert not set(rows) & set(run.rows["validation"])


@pytest.mark.parametrize("name", RECOVERIES)
def test_the_test_images_do_not_matter(pruned_run, name):
    run, dense, pruned = pruned_run
    blind = jax.tree.map(jnp.zeros_like, run.images["test"]._replace(rng=None))
    blind = blind._replace(rng=run.images["test"].rng)
    elsewhere = run._replace(images=run.images | {"test": blind})
    found, _ = mended(run, dense, pruned, name)
    again, _ = mended(elsewhere, dense, pruned, name)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_recoveries_change_what_they_say_and_ask_before_each_batch(pruned_run):
    run, dense, pruned = pruned_run
    none, polls = mended(run, dense, pruned, "none")
    assert none is pruned and polls == 0
    statistics, polls = mended(run, dense, pruned, "batch_norm")
    assert statistics["params"] is pruned["params"] and polls == 4
    corrected, polls = mended(run, dense, pruned, "bias")
    assert polls == 5
    moved = {
        name
        for name, leaf in trees.flatten(corrected["params"]).items()
        if (leaf != trees.flatten(pruned["params"])[name]).any()
    }
    assert moved == {"head/bias"}
    for name, leaf in trees.flatten(corrected["batch_stats"]).items():
        np.testing.assert_array_equal(leaf, trees.flatten(statistics["batch_stats"])[name])
    fitted, polls = mended(run, dense, pruned, "least_squares")
    assert polls == 5
    for before, after in zip(
        jax.tree.leaves(pruned["params"]), jax.tree.leaves(fitted["params"]), strict=True
    ):
        assert not np.asarray(after)[np.asarray(before) == 0].any()


def test_multiply_adds_without_dead_channels(pruned_run):
    """8, 8, 16, 16 channels on images of 8x8 and 4x4: half of the outputs, and of the inputs."""
    run, dense, pruned = pruned_run
    share = curve_tools(run, dense, lambda: None).compact
    assert share(dense) == {"macs_compact": 1.0}
    left = 9 * 64 * (1 * 4 + 4 * 4) + 9 * 16 * (4 * 8 + 8 * 8) + 8 * 10
    whole = 9 * 64 * (1 * 8 + 8 * 8) + 9 * 16 * (8 * 16 + 16 * 16) + 16 * 10
    assert share(pruned) == {"macs_compact": pytest.approx(left / whole, rel=1e-12)}
    # With the shifts of its norm, a channel without weights emits a constant and is not dead.
    emitting = jax.tree.map(lambda old, new: old + 0.1 if old.ndim == 1 else new, dense, pruned)
    assert share(emitting) == {"macs_compact": 1.0}


def test_several_devices_find_the_same_weights(pruned_run):
    run, dense, pruned = pruned_run
    many = set_up(CONFIG, devices=jax.devices()[:4])
    found, _ = mended(run, dense, pruned, "least_squares")
    shared, _ = mended(many, *jax.device_get((dense, pruned)), "least_squares")
    for mine, theirs in zip(
        jax.tree.leaves(found["params"]), jax.tree.leaves(shared["params"]), strict=True
    ):
        np.testing.assert_allclose(theirs, mine, atol=1e-3)
