"""The penalty on the loss: its value and slopes by formula, and whose twin it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise
from bbo.compaction import find_channels
from bbo.types import UsageError

W = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
PARAMS = {"conv": {"kernel": W, "bias": jnp.ones(5)}, "head": jnp.ones((5, 2))}
AXES = {"weight": (), "kernel": (0, 1), "filter": (0, 1, 2)}


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("unit", AXES)
def test_value_and_slopes(unit, q):
    regulariser = noise.lq_penalty(penalty=0.3, q=q, draw_unit=unit)
    found, slopes = jax.value_and_grad(regulariser.penalty)(PARAMS)
    w = np.asarray(W, np.float64)
    norms = np.sqrt(np.square(w).sum(axis=AXES[unit], keepdims=True))
    assert found == pytest.approx(0.3 * (norms**q).sum(), rel=1e-5)
    np.testing.assert_allclose(slopes["conv"]["kernel"], 0.3 * q * norms ** (q - 2) * w, rtol=1e-4)
    assert not jnp.any(slopes["conv"]["bias"]) and not jnp.any(slopes["head"])
    assert regulariser.weights(jax.random.key(0), PARAMS) is PARAMS


@pytest.mark.parametrize("unit", AXES)
def test_what_is_zero_is_left_alone(unit):
    regulariser = noise.lq_penalty(penalty=0.3, q=0.5, draw_unit=unit)
    slopes = jax.grad(regulariser.penalty)(jax.tree.map(jnp.zeros_like, PARAMS))
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(slopes))


def test_it_is_what_batch_bridgeout_adds_to_a_squared_loss_on_average():
    """Of a linear model whose inputs have the same sum of squares, by the draws of the noise."""
    rate, q, count = 0.3, 1.0, 8
    x = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (40, 36)))[0]  # x'x is 1
    y, w = x @ jax.random.normal(jax.random.key(2), (36, count)), W.reshape(36, 5)[:, :1]
    bridgeout = noise.batch_bridgeout(rate=rate, q=q, target_fraction=1.0, on="w")

    @jax.jit
    @jax.vmap
    def loss(key):
        return jnp.sum(jnp.square(y[:, :1] - x @ bridgeout.weights(key, {"w": w})["w"]))

    losses = loss(jax.random.split(jax.random.key(3), 20_000))
    added = losses.mean() - jnp.sum(jnp.square(y[:, :1] - x @ w))
    twin = noise.lq_penalty(penalty=rate / (1 - rate), q=q, on="w")
    noisy = float(losses.std()) / 20_000**0.5
    assert float(added) == pytest.approx(float(twin.penalty({"w": w})), abs=5 * noisy)
    assert twin.penalty({"w": w}) > 25 * noisy


@pytest.mark.parametrize("unit", AXES)
def test_layouts_make_no_difference(unit):
    def network(weights, x):
        y = jax.lax.conv_general_dilated(
            x, weights["w"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return jax.nn.relu(y).mean((2, 3)) @ weights["out"]

    weights = {"w": jnp.transpose(W, (3, 2, 0, 1)), "out": jnp.ones((5, 2))}
    channels = find_channels(network, weights, jnp.ones((1, 4, 6, 6)))
    described = noise.lq_penalty(penalty=0.3, q=1.0, draw_unit=unit, channels=channels)
    plain = noise.lq_penalty(penalty=0.3, q=1.0, draw_unit=unit)
    expected = float(plain.penalty(PARAMS))
    assert described.penalty(weights) == pytest.approx(expected, rel=1e-6)


def test_each_of_stacked_kernels_counts():
    def blocks(weights, x):
        def block(h, w):
            return h + jax.nn.relu(h @ w["up"]) @ w["down"], None

        return jax.lax.scan(block, x, weights)[0]

    weights = {"up": jax.random.normal(jax.random.key(3), (4, 6, 8)), "down": jnp.ones((4, 8, 6))}
    channels = find_channels(blocks, weights, jnp.ones((2, 6)))
    lasso = noise.lq_penalty(penalty=1.0, q=1.0, draw_unit="filter", channels=channels, on="up")
    expected = float(jnp.sqrt(jnp.square(weights["up"]).sum(axis=1)).sum())
    assert lasso.penalty(weights) == pytest.approx(expected, rel=1e-5)


def test_mistakes():
    with pytest.raises(UsageError, match=r"penalty is 0; it must be > 0"):
        noise.lq_penalty(penalty=0, q=1.0)
    with pytest.raises(UsageError, match="draw_unit is 'channel'"):
        noise.lq_penalty(penalty=1, q=1.0, draw_unit="channel")
    with pytest.raises(UsageError, match="matches no parameter|no parameter"):
        noise.lq_penalty(penalty=1, q=1.0, on="nowhere").penalty(PARAMS)
    whole = {"kernel": jnp.ones((3, 3, 2, 2), jnp.int32)}
    with pytest.raises(UsageError, match="penalised"):
        noise.lq_penalty(penalty=1, q=1.0, on="kernel").penalty(whole)
