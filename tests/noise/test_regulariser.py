"""Regularisers: closed-form moments, the penalty they stand for, and what they act on."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise
from bbo.noise.targeting import weakest
from bbo.settings.noise_section import NoiseConfig
from bbo.types import UsageError

RATE = 0.3
VARIANCE = RATE / (1 - RATE)


def sample(regulariser, params, draws=4000):
    keys = jax.random.split(jax.random.key(7), draws)
    return jax.jit(jax.vmap(lambda key: regulariser.weights(key, params)))(keys)["kernel"]


def assert_moments(samples, mean, variance, fourth):
    """Sample mean and variance within 4 sigma; ``fourth`` is the fourth central moment."""
    samples = np.asarray(samples, np.float64)
    n = samples.shape[0]
    mean, variance, fourth = (np.asarray(x, np.float64) for x in (mean, variance, fourth))
    slack = 1e-6 * np.abs(mean)
    assert (np.abs(samples.mean(0) - mean) <= 4 * np.sqrt(variance / n) + slack).all()
    spread = np.sqrt(np.maximum(fourth - variance**2, 0) / n)
    # The variance about a sample mean adds a term of order 1 / n.
    assert (np.abs(samples.var(0) - variance) <= 4 * spread + (20 * variance + 1e-9) / n).all()


def xi_fourth():
    values = np.array([-1, 1 / (1 - RATE) - 1])
    return np.average(values**4, weights=[RATE, 1 - RATE])


W = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
FILTER_NORM = jnp.sqrt(jnp.sum(W**2, axis=(0, 1, 2), keepdims=True))
SIZES = {
    "bridgeout 0.5": (noise.bridgeout(rate=RATE, q=0.5), jnp.abs(W) ** 0.25),
    "batch_bridgeout 1": (
        noise.batch_bridgeout(rate=RATE, q=1.0, target_fraction=1.0),
        jnp.abs(W) ** 0.5,
    ),
    "batch_bridgeout 1.5, targeted": (
        noise.batch_bridgeout(rate=RATE, q=1.5, target_fraction=0.5),
        jnp.where(weakest(W, 0.5), jnp.abs(W) ** 0.75, 0.0),
    ),
    "batch_bridgeout, targeting filters": (
        noise.batch_bridgeout(rate=RATE, q=3.0, target_fraction=0.5, target_unit="filter"),
        jnp.where(weakest(W, 0.5, "filter"), jnp.abs(W) ** 1.5, 0.0),
    ),
    "group_bridgeout 1": (
        noise.group_bridgeout(rate=RATE, q=1.0),
        jnp.broadcast_to(FILTER_NORM**0.5, W.shape),
    ),
    "dropconnect": (noise.dropconnect(rate=RATE), jnp.abs(W)),
    "shakeout": (noise.shakeout(rate=RATE, c=0.2), jnp.abs(W) + 0.2),
}


@pytest.mark.parametrize("name", SIZES)
def test_weight_noise_moments(name):
    regulariser, size = SIZES[name]
    samples = sample(regulariser, {"kernel": W})
    assert_moments(samples, W, VARIANCE * size**2, xi_fourth() * size**4)


def test_targeted_dropout_moments():
    regulariser = noise.targeted_dropout(rate=RATE, target_fraction=0.5, target_unit="weight")
    targeted = weakest(W, 0.5, "weight")
    assert int(targeted.sum()) == 4 * 9  # half of the 18 weights in each of 4 filters
    mean = jnp.where(targeted, (1 - RATE) * W, W)
    variance = jnp.where(targeted, RATE * (1 - RATE) * W**2, 0.0)
    fourth = jnp.where(targeted, RATE * (1 - RATE) * (1 - 3 * RATE * (1 - RATE)) * W**4, 0.0)
    assert_moments(sample(regulariser, {"kernel": W}), mean, variance, fourth)


@pytest.mark.parametrize("unit, axes", [("filter", (1, 2, 3)), ("kernel", (1, 2))])
def test_targeted_dropout_drops_units_whole(unit, axes):
    regulariser = noise.targeted_dropout(rate=0.5, target_fraction=1.0, target_unit=unit)
    zero = np.asarray(sample(regulariser, {"kernel": W}, draws=50) == 0)
    assert np.array_equal(zero.all(axes), zero.any(axes)) and 0 < zero.mean() < 1


@pytest.mark.parametrize("name, size", [("dropout", 2.0), ("sparseout", 2.0**0.75)])
def test_activation_noise_moments(name, size):
    maker = {"dropout": noise.dropout, "sparseout": lambda rate: noise.sparseout(rate=rate, q=1.5)}
    x = jnp.full((500, 4, 4, 3), -2.0)
    noisy = maker[name](rate=RATE).activations(jax.random.key(3), x, index=jnp.arange(500))
    flat = noisy.reshape(-1, 1)
    assert_moments(flat, [-2.0], [VARIANCE * size**2], [xi_fourth() * size**4])


def test_activation_noise_depends_on_the_place_in_the_global_batch_only():
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 3))
    noisy = noise.dropout(rate=RATE).activations
    whole = noisy(jax.random.key(1), x, index=jnp.arange(8))
    second_half = noisy(jax.random.key(1), x[4:], index=jnp.arange(4, 8))
    np.testing.assert_array_equal(whole[4:], second_half)
    assert not np.array_equal(np.asarray(whole[:4] == 0), np.asarray(second_half == 0))


@pytest.mark.parametrize("maker", [noise.dropout, functools.partial(noise.sparseout, q=1.0)])
def test_activation_noise_falls_on_the_weakest_maps_of_each_example(maker):
    sizes = jnp.array([[3.0, 1.0, 2.0, 4.0], [1.0, 4.0, 3.0, 2.0]])
    x = jnp.broadcast_to(sizes[:, None, None], (2, 9, 9, 4))
    noisy = maker(rate=RATE, target_fraction=0.5).activations
    changed = noisy(jax.random.key(0), x, index=jnp.arange(2)) != x
    weak = [[False, True, True, False], [True, False, False, True]]
    np.testing.assert_array_equal(changed.all((1, 2)), weak)
    np.testing.assert_array_equal(changed.any((1, 2)), weak)


def test_batch_bridgeout_at_q_2_on_positive_weights_is_dropconnect():
    params = {"kernel": jnp.abs(W) + 0.01}
    key = jax.random.key(5)
    bridge = noise.batch_bridgeout(rate=RATE, q=2.0, target_fraction=1.0).weights(key, params)
    connect = noise.dropconnect(rate=RATE).weights(key, params)
    np.testing.assert_allclose(bridge["kernel"], connect["kernel"], rtol=3e-7)


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_penalty_of_a_linear_model(q):
    """E |t - x w'|^2 = |t - x w|^2 + Var(xi) sum |w|^q sum_n x_n^2 (Monte Carlo, 4 sigma)."""
    x = jax.random.normal(jax.random.key(0), (20, 6))
    w = jax.random.normal(jax.random.key(1), (6, 1))
    target = jax.random.normal(jax.random.key(2), (20, 1))
    regulariser = noise.batch_bridgeout(rate=RATE, q=q, target_fraction=1.0, on="kernel")

    def loss(key):
        noisy = regulariser.weights(key, {"kernel": w})["kernel"]
        return jnp.sum(jnp.square(target - x @ noisy))

    draws = 50_000
    losses = np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(3), draws)))
    penalty = VARIANCE * np.sum(np.abs(w[:, 0]) ** q * np.sum(np.square(x), axis=0))
    expected = float(jnp.sum(jnp.square(target - x @ w))) + penalty
    error = losses.mean(dtype=np.float64) - expected
    assert abs(error) <= 4 * losses.std(dtype=np.float64) / math.sqrt(draws)
    assert penalty > 10 * losses.std() / math.sqrt(draws)  # or the test could not fail


def test_selection_of_parameters():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "shortcut": {"kernel": jnp.ones((1, 1, 2, 4))},
        "head": {"kernel": jnp.ones((4, 10))},
    }

    def changed(**selection):
        noisy = noise.dropconnect(rate=RATE, **selection).weights(jax.random.key(0), params)
        return {k for k in params if not np.array_equal(noisy[k]["kernel"], params[k]["kernel"])}

    assert changed() == {"conv"}
    assert changed(on="head/kernel|shortcut") == {"head", "shortcut"}
    with pytest.raises(UsageError, match="no parameter is matched by 'dense'.*conv/bias"):
        changed(on="dense")


def test_any_pytree_and_independent_leaves():
    params = [jnp.ones((3, 3, 8, 8)), (jnp.ones((3, 3, 8, 8)), None)]
    noisy = noise.dropconnect(rate=RATE, on="").weights(jax.random.key(0), params)
    assert jax.tree.structure(noisy) == jax.tree.structure(params)
    assert not np.array_equal(noisy[0], noisy[1][0])


def test_noise_compiles_to_the_same_draw():
    regulariser = noise.batch_bridgeout(rate=RATE, q=1.5)
    key = jax.random.key(2)
    eager = regulariser.weights(key, {"kernel": W})["kernel"]
    compiled = jax.jit(regulariser.weights)(key, {"kernel": W})["kernel"]
    np.testing.assert_allclose(eager, compiled, rtol=1e-6)


@pytest.mark.parametrize(
    "name, weights, activations, per_example",
    [
        ("none", False, False, False),
        ("batch_bridgeout", True, False, False),
        ("bridgeout", True, False, True),
        ("group_bridgeout", True, False, False),
        ("dropconnect", True, False, False),
        ("targeted_dropout", True, False, False),
        ("shakeout", True, False, False),
        ("dropout", False, True, False),
        ("sparseout", False, True, False),
    ],
)
def test_every_regulariser_by_name(name, weights, activations, per_example):
    made = noise.create_regulariser(NoiseConfig(noise=name))
    assert (made.perturbs_weights, made.perturbs_activations) == (weights, activations)
    assert made.per_example == per_example
    noisy = made.weights(jax.random.key(0), {"kernel": W})["kernel"]
    assert noisy.shape == W.shape and np.array_equal(noisy, W) != weights
    images = jnp.ones((3, 2, 2, 4))
    noisy = made.activations(jax.random.key(0), images, index=jnp.arange(3))
    assert noisy.shape == images.shape and np.array_equal(noisy, images) != activations


def test_a_rate_is_for_those_that_have_one():
    assert noise.create_regulariser(NoiseConfig(noise="none"), jnp.float32(0.1)) == noise.none()


def test_where_there_is_no_noise_there_is_none_to_pause():
    paused = noise.paused(noise.dropout(rate=0.5), jnp.asarray(True))
    assert (paused.perturbs_weights, paused.perturbs_activations) == (False, True)
    params = {"kernel": W}
    assert paused.weights(jax.random.key(0), params) is params


def test_what_is_drawn_for_each_example_is_so_when_paused():
    for made in (noise.bridgeout(rate=0.5, q=1.0), noise.dropconnect(rate=0.5)):
        assert noise.paused(made, jnp.asarray(False)).per_example == made.per_example


def test_what_was_removed_is_zero_whatever_it_is_now():
    masks = {"kernel": jnp.arange(4) % 2 == 0}
    for regulariser in (noise.group_bridgeout(rate=RATE, q=1.0), noise.dropconnect(rate=RATE)):
        noisy = regulariser.weights(jax.random.key(0), {"kernel": W})["kernel"]
        found = noise.masked(regulariser, masks).weights(jax.random.key(0), {"kernel": W})
        np.testing.assert_array_equal(found["kernel"], jnp.where(masks["kernel"], noisy, 0.0))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("batch_bridgeout", {"rate": 1.0}),
        ("batch_bridgeout", {"rate": -0.3}),
        ("batch_bridgeout", {"q": 0.0}),
        ("batch_bridgeout", {"target_fraction": 0.0}),
        ("batch_bridgeout", {"target_fraction": -0.5}),
        ("batch_bridgeout", {"target_unit": "filtre"}),
        ("group_bridgeout", {"q": -1.0}),
        ("sparseout", {"rate": 1.5}),
        ("targeted_dropout", {"rate": 0.0, "target_fraction": 0.5}),
    ],
)
def test_arguments_out_of_range_are_refused(name, wrong):
    valid = {"rate": 0.3, "q": 1.0} if "out" in name and name != "targeted_dropout" else {}
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .* must be"):
        made = getattr(noise, name)(**(valid | wrong))
        made.weights(jax.random.key(0), {"kernel": W})
