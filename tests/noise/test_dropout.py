"""Nested dropping: pruned as later, by one share for all layers, as often as the formula says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise, pruning
from bbo.types import UsageError

PARAMS = {
    name: {"kernel": jax.random.normal(jax.random.key(seed), (3, 3, 2, count))}
    for seed, (name, count) in enumerate({"conv1": 5, "conv2": 10}.items())
}
PARAMS["conv1_norm"] = {"scale": jnp.ones(5), "bias": jnp.ones(5)}


def nested(**options):
    prune = functools.partial(pruning.prune, **options)
    return noise.nested_dropping(target_fraction=0.9, prune=prune)


@functools.cache
def sample(draws=3000):
    keys = jax.random.split(jax.random.key(1), draws)
    return jax.jit(jax.vmap(lambda key: nested().weights(key, PARAMS)))(keys)


def test_each_draw_is_a_pruned_network():
    drawn = sample()
    left = {
        name: (drawn[name]["kernel"] != 0).any((1, 2, 3)).sum(-1) for name in ("conv1", "conv2")
    }
    assert set(np.asarray(left["conv2"]).tolist()) == set(range(2, 11))
    for i in range(20):
        sparsity = 1 - int(left["conv2"][i]) / 10
        pruned = pruning.prune(PARAMS, sparsity + 1e-6)
        found = jax.tree.map(lambda leaf: leaf[i], drawn)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, found["conv2"], pruned["conv2"])
        # One share for all layers: of half as many filters half as many go, rounded down.
        assert int(left["conv1"][i]) == 5 - (10 - int(left["conv2"][i])) // 2


def test_what_belongs_to_a_filter_goes_with_it():
    drawn = sample()
    gone = ~np.asarray((drawn["conv1"]["kernel"] != 0).any((1, 2, 3)))
    for leaf in drawn["conv1_norm"].values():
        np.testing.assert_array_equal(np.asarray(leaf) == 0, gone)


def test_one_of_some_shares_each_as_often():
    shares, draws = (0.2, 0.5, 0.7), 900
    made = noise.nested_dropping(target_fraction=0.9, prune=pruning.prune, shares=shares)
    keys = jax.random.split(jax.random.key(2), draws)
    drawn = jax.jit(jax.vmap(lambda key: made.weights(key, PARAMS)))(keys)
    left = np.asarray((drawn["conv2"]["kernel"] != 0).any((1, 2, 3)).sum(-1))
    values, counts = np.unique(left, return_counts=True)
    assert values.tolist() == [3, 5, 8]
    assert np.all(np.abs(counts - draws / 3) <= 4 * np.sqrt(draws * 2 / 9))


def test_how_often_a_filter_goes():
    gone = ~np.asarray((sample()["conv2"]["kernel"] != 0).any((1, 2, 3)))
    order = np.argsort(
        np.linalg.norm(np.asarray(PARAMS["conv2"]["kernel"]).reshape(-1, 10), axis=0)
    )
    expected = np.maximum(0, 1 - (np.arange(10) + 1) / 10 / 0.9)
    error = gone.mean(axis=0)[order] - expected
    assert np.all(np.abs(error) <= 4 * np.sqrt(expected * (1 - expected) / len(gone)) + 1e-12)


def test_the_gradient_of_what_is_dropped_is_zero():
    def total(params):
        return sum(jnp.sum(x) for x in jax.tree.leaves(nested().weights(jax.random.key(4), params)))

    slopes, drawn = jax.grad(total)(PARAMS), nested().weights(jax.random.key(4), PARAMS)
    dropped = jax.tree.map(lambda leaf: leaf == 0, drawn)
    assert any(bool(leaf.any()) for leaf in jax.tree.leaves(dropped))
    jax.tree.map(
        lambda slope, zero: np.testing.assert_array_equal(slope, ~np.asarray(zero)), slopes, dropped
    )


def test_ordered_widths_drop_the_last():
    drawn = nested(criterion="index").weights(jax.random.key(4), PARAMS)
    there = np.asarray((drawn["conv2"]["kernel"] != 0).any((0, 1, 2)))
    assert there.tolist() == sorted(there.tolist(), reverse=True) and 0 < there.sum() < 10


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range(share):
    with pytest.raises(UsageError, match="target_fraction"):
        noise.nested_dropping(target_fraction=share, prune=lambda params, share: params)
