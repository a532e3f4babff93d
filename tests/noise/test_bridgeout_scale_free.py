"""Scale-free Batch Bridgeout: its variance and penalty by formula, at every scale."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise

RATE = 0.3
VARIANCE = RATE / (1 - RATE)
W = jax.random.normal(jax.random.key(0), (3, 3, 4, 5))
RMS = math.sqrt(float(jnp.mean(jnp.square(W))))


def noisy(regulariser, key, w):
    return regulariser.weights(key, {"kernel": w})["kernel"]


def sample(regulariser, draws=4000):
    keys = jax.random.split(jax.random.key(1), draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: noisy(regulariser, key, W)))(keys))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("q", [0.5, 1.0, 1.5])
def test_the_noise_is_in_proportion_to_the_scale(q, scale):
    regulariser = noise.scale_free_bridgeout(rate=RATE, q=q, nested=True)
    expected = scale * noisy(regulariser, jax.random.key(2), W)
    found = noisy(regulariser, jax.random.key(2), scale * W)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * scale)


def test_a_kernel_of_zeros_stays_zero_and_has_a_gradient():
    regulariser = noise.scale_free_bridgeout(rate=RATE, q=1.0, target_fraction=1.0)
    w = jnp.zeros((3, 3, 2, 2))
    value, pullback = jax.vjp(lambda w: noisy(regulariser, jax.random.key(0), w), w)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_array_equal(pullback(jnp.ones_like(w))[0], 1.0)


def test_no_gradient_flows_through_the_scale():
    regulariser = noise.scale_free_bridgeout(rate=RATE, q=1.0, target_fraction=1.0)
    value, pullback = jax.vjp(lambda w: noisy(regulariser, jax.random.key(0), w), W)
    found = pullback(jnp.ones_like(W))[0]
    # w + sqrt(s |w|) xi, with s held.
    expected = 1 + (value - W) / (2 * W)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("unit", ["weight", "kernel", "filter"])
def test_variance_and_what_moves_as_one(unit):
    regulariser = noise.scale_free_bridgeout(rate=RATE, q=1.0, target_fraction=1.0, draw_unit=unit)
    drawn = sample(regulariser) - np.asarray(W)
    size = math.sqrt(RMS) * np.sqrt(np.abs(W))
    np.testing.assert_allclose(drawn.var(axis=0), VARIANCE * size**2, rtol=0.15)
    xi = (drawn / size).round(3)
    axes = {"weight": (), "kernel": (1, 2), "filter": (1, 2, 3)}[unit]
    if axes:
        assert (xi.max(axes) == xi.min(axes)).all()
    # As many draws as there are units: the correlation of two of the next finer ones is none.
    first, second = {
        "weight": (xi[:, 0, 0, 0, 0], xi[:, 1, 0, 0, 0]),
        "kernel": (xi[:, 0, 0, 0, 0], xi[:, 0, 0, 1, 0]),
        "filter": (xi[:, 0, 0, 0, 0], xi[:, 0, 0, 0, 1]),
    }[unit]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(len(xi))


@pytest.mark.parametrize("draw_unit", ["weight", "filter"])
@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_penalty_of_a_linear_model(q, draw_unit):
    """E |t - x w'|^2 - |t - x w|^2: of weights that move alone, and as one (4 sigma)."""
    x = jax.random.normal(jax.random.key(0), (20, 6))
    w = jax.random.normal(jax.random.key(1), (6, 1))
    target = jax.random.normal(jax.random.key(2), (20, 1))
    regulariser = noise.scale_free_bridgeout(
        rate=RATE, q=q, target_fraction=1.0, draw_unit=draw_unit, on="kernel"
    )

    def loss(key):
        return jnp.sum(jnp.square(target - x @ noisy(regulariser, key, w)))

    draws = 50_000
    losses = np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(3), draws)))
    scale = np.sqrt(np.mean(np.square(w)))
    size = scale * (np.abs(w[:, 0]) / scale) ** (q / 2)
    moved = x * size if draw_unit == "weight" else x @ size
    penalty = VARIANCE * np.sum(np.square(moved))
    error = losses.mean(dtype=np.float64) - float(jnp.sum(jnp.square(target - x @ w))) - penalty
    assert abs(error) <= 4 * losses.std(dtype=np.float64) / math.sqrt(draws)
    assert penalty > 10 * losses.std() / math.sqrt(draws)  # or the test could not fail


def test_nested_targets_are_a_factor_on_the_variance():
    """The filter of rank k of n moves when the share reaches (k + 1) / n."""
    regulariser = noise.scale_free_bridgeout(
        rate=RATE, q=1.0, target_fraction=0.8, nested=True, draw_unit="filter"
    )
    drawn = sample(regulariser)[:, 0, 0, 0] != np.asarray(W)[0, 0, 0]
    order = np.argsort(np.linalg.norm(np.asarray(W).reshape(-1, 5), axis=0))
    expected = np.maximum(0, 1 - (np.arange(5) + 1) / 5 / 0.8)
    error = drawn.mean(axis=0)[order] - expected
    assert np.all(np.abs(error) <= 4 * np.sqrt(expected * (1 - expected) / len(drawn)))
