"""Checkpoints: what is saved comes back, bit for bit, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bbo import checkpoint, optim, sharding
from bbo.train import TrainState


def make_state(value=1.0):
    """Every kind of leaf that a run has; the state of the optimiser nests NamedTuples."""
    generator = np.random.default_rng(int(value))
    params = {
        "conv": {"kernel": jnp.asarray(generator.standard_normal((3, 3, 2, 4)), jnp.float32)},
        "half": jnp.asarray(generator.standard_normal(5), jnp.bfloat16),
    }
    optimizer = optax.chain(
        optim.reset_every(optax.trace(decay=0.9, nesterov=True), 3),
        optax.scale_by_schedule(optax.constant_schedule(0.1)),
    )
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(value, x.dtype), optimizer.init(params))
    stats = {"conv_norm": {"mean": jnp.full(4, value, jnp.float32)}}
    return TrainState(jnp.asarray(int(value), jnp.int32), params, stats, opt_state)


def spread(tree, count):
    return sharding.replicate(tree, sharding.data_mesh(jax.devices()[:count]))


def save_all(folder, epochs, *, every, tree=None, last=None):
    with checkpoint.open_checkpoints(folder, every=every) as manager:
        for epoch in epochs:
            saved = make_state(epoch) if tree is None else tree
            checkpoint.save(manager, epoch, saved, last=epoch == last)
        manager.wait_until_finished()
        return list(manager.all_steps())


def check_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def restore(folder, like):
    with checkpoint.open_checkpoints(folder, every=1) as manager:
        return checkpoint.restore_newest(manager, like)


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 8)])
def test_round_trip(tmp_path, before, after):
    tree = (make_state(7.0), {"best": jnp.full((), 0.25)})
    save_all(tmp_path, [3], every=1, tree=spread(tree, before))
    like = spread(jax.tree.map(jnp.zeros_like, tree), after)
    epoch, found = restore(tmp_path, like)
    assert epoch == 3
    check_equal(found, tree)
    for mine, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert mine.sharding == wanted.sharding and len(mine.sharding.device_set) == after


def test_a_fresh_folder_gives_the_beginning(tmp_path):
    like = make_state()
    epoch, found = restore(tmp_path, like)
    assert epoch == 0 and found is like


def test_only_the_newest_is_kept_and_its_turn_is_respected(tmp_path):
    # Besides those whose turn it is, the very first is saved.
    assert save_all(tmp_path, [1, 2], every=3) == [1]
    assert save_all(tmp_path, range(2, 8), every=3) == [6]
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert folders == {"6"}
    epoch, found = restore(tmp_path, make_state())
    assert epoch == 6
    check_equal(found, make_state(6))


def test_the_last_is_saved_whether_or_not_it_is_its_turn(tmp_path):
    assert save_all(tmp_path, [6, 7], every=3, last=7) == [7]
    assert restore(tmp_path, make_state())[0] == 7
    assert save_all(tmp_path / "on_its_turn", [6], every=3, last=6) == [6]
