"""Held at zero by optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bbo
from bbo import pruning
from bbo.compaction import find_channels
from bbo.types import UsageError

X = jax.random.normal(jax.random.key(0), (32, 3))
Y = jnp.sin(X @ jnp.ones((3, 2)))
SGD = optax.sgd(0.05, momentum=0.9)
KEYS = jax.random.split(jax.random.key(1))
PARAMS = {
    "a": jax.random.normal(KEYS[0], (3, 8)),
    "b": jnp.zeros(8),
    "c": jax.random.normal(KEYS[1], (8, 2)),
}


def network(params, x):
    return jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]


def loss(params):
    return jnp.mean(jnp.square(network(params, X) - Y))


def trained(tx, steps=40):
    @jax.jit
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.mean(params["a"] == 0)

    (params, _), zeros = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), None, length=steps)
    return params, np.asarray(zeros)


def channels():
    return find_channels(network, PARAMS, X)


def test_what_was_removed_stays_zero_and_the_rest_learns():
    pruner = pruning.prepare(PARAMS, channels=channels())
    masks, pruned = pruner.masks(0.5), pruner.prune(0.5)
    params, zeros = trained(optax.chain(SGD, bbo.optax.hold_at_zero(masks)))
    np.testing.assert_array_equal(params["a"] == 0, pruned["a"] == 0)
    np.testing.assert_array_equal(params["b"][np.asarray(pruned["a"] == 0).all(0)], 0)
    assert set(zeros) == {0.5}
    assert loss(params) < 0.5 * loss(pruned)


def test_more_and_more_is_removed():
    found = channels()

    def masks_of(params, sparsity):
        return pruning.prepare(params, channels=found).masks(sparsity)

    schedule = lambda step: step.astype(jnp.float32) / 64  # noqa: E731
    tx = optax.chain(SGD, bbo.optax.prune_gradually(masks_of, schedule, every=8))
    _, zeros = trained(tx)
    expected = np.repeat([0, 1, 2, 3, 4], 8) / 8
    np.testing.assert_array_equal(zeros, expected)


def test_parameters_are_needed():
    tx = bbo.optax.hold_at_zero(jax.tree.map(lambda x: x > 0, PARAMS))
    with pytest.raises(UsageError, match=r"update\(gradients, state, params\)"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(UsageError, match="every is 0; it must be 1 or more"):
        bbo.optax.prune_gradually(lambda params, sparsity: params, lambda step: 0.5, every=0)
