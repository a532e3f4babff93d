"""Networks that others have published, against what a human would remove of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_by_hand import BY_HAND

import bbo
from bbo import compaction, noise, trees
from bbo.pruning import recovery

NAMES = list(BY_HAND)
TRAINED = ["Linen ResNet with squeeze-and-excite", "Linen DCGAN", "NNX DenseNet"]
"""Those with norms that take their statistics from the batch in training."""


def slow_but(*quick):
    """All networks; what has to be compiled for most of them takes long."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


@pytest.fixture(autouse=True)
def float64():
    """And the promotions that modules of libraries need."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


made = functools.cache(lambda name: BY_HAND[name].make())


@functools.cache
def halved(name):
    return bbo.shrink(made(name).function, made(name).variables, made(name).x, keep=0.5)


def sizes(variables, filters):
    leaves = trees.flatten(variables)
    return {name: leaves[name].shape[axis] for name, axis in filters.items()}


def by_filter(variables, filters):
    """[out, ...] by name."""
    leaves = trees.flatten(variables)
    return {
        name: np.moveaxis(np.asarray(leaves[name]), axis, 0).reshape(leaves[name].shape[axis], -1)
        for name, axis in filters.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_half_of_what_a_human_could_remove_goes(name):
    network, by_hand, small = made(name), BY_HAND[name], halved(name)
    rows = {row.name: row for row in small.report.rows if row.asked}
    assert {key: row.channels for key, row in rows.items()} == by_hand.channels
    assert {key: 2 * row.removed for key, row in rows.items()} == by_hand.channels
    in_all = sum(by_hand.channels.values())
    assert in_all >= 0.7 * (in_all + by_hand.beyond)
    whole = sizes(network.variables, by_hand.filters)
    left = sizes(small.variables, by_hand.filters)
    assert {key: 2 * size for key, size in left.items()} == whole


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_is_the_masked_network(name):
    network, small = made(name), halved(name)
    assert small.report.difference < 1e-9
    others = network.x[::-1] if network.x.dtype == int else 0.3 + 2 * network.x
    wanted = network.function(small.masked, others)
    found = jax.jit(small.function)(small.variables, others)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
    assert np.abs(network.function(network.variables, others) - wanted).max() > 1e-3


def test_heads_go_as_a_whole():
    for i in (0, 1):
        gone = np.zeros(48, bool)
        gone[halved("Linen ViT").cut[f"params/blocks_{i}/attn/qkv/kernel", 1]] = True
        heads = gone.reshape(3, 4, 4)[0, :, 0]
        assert heads.sum() == 2
        np.testing.assert_array_equal(gone.reshape(3, 4, 4), np.tile(heads[:, None], (3, 1, 4)))


@pytest.mark.parametrize("name", slow_but("Equinox VGG", "Haiku MobileNet", "Linen GRU"))
def test_noise_falls_on_whole_filters(name):
    network, filters = made(name), BY_HAND[name].filters
    found = compaction.find_channels(network.function, network.variables, network.x)
    targeted = {"target_fraction": 0.5, "target_unit": "filter", "channels": found}
    dropped = noise.targeted_dropout(rate=1 - 1e-6, **targeted)
    shaken = noise.batch_bridgeout(rate=0.5, q=1.0, **targeted)

    @jax.jit
    def noisy(variables):
        return dropped.weights(jax.random.key(0), variables), shaken.weights(
            jax.random.key(0), variables
        )

    before = by_filter(network.variables, filters)
    weak = {
        key: np.isin(np.arange(len(w)), np.argsort(np.linalg.norm(w, axis=1))[: len(w) // 2])
        for key, w in before.items()
    }
    for result in noisy(network.variables):
        old, new = trees.flatten(network.variables), trees.flatten(result)
        assert {key for key in old if (old[key] != new[key]).any()} == filters.keys()
        for key, after in by_filter(result, filters).items():
            np.testing.assert_array_equal((after != before[key]).all(axis=1), weak[key])
            np.testing.assert_array_equal((after != before[key]).any(axis=1), weak[key])
    gone = by_filter(noisy(network.variables)[0], filters)
    for key, after in gone.items():
        np.testing.assert_array_equal((after == 0).all(axis=1), weak[key])


def outputs(network):
    """In training mode, if there is one."""
    if network.train is None:
        return network.function
    return lambda variables, x: network.train(variables, x)[0]


@pytest.mark.parametrize("name", slow_but("Haiku MobileNet", "Linen DCGAN"))
def test_what_is_left_is_fitted(name):
    network, by_hand, masked = made(name), BY_HAND[name], halved(name).masked
    function = outputs(network)
    reasons = recovery.fitted_kernels(function, network.variables, network.x)
    left = tuple(sorted(key for key in by_hand.filters if reasons[key]))
    assert left == by_hand.left
    fit = jax.jit(functools.partial(recovery.refit_function, function))
    same = trees.flatten(fit(network.variables, network.variables, network.x))
    for key, leaf in trees.flatten(network.variables).items():
        np.testing.assert_allclose(same[key], leaf, atol=1e-9)
    wanted = function(network.variables, network.x)
    mended = fit(network.variables, masked, network.x)
    before, after = (
        float(jnp.square(function(variables, network.x) - wanted).mean())
        for variables in (masked, mended)
    )
    assert after < by_hand.error * before


@pytest.mark.parametrize("name", TRAINED)
def test_statistics_are_those_of_what_is_left(name):
    network, masked = made(name), halved(name).masked
    train = lambda variables, x: network.train(variables, x)[1]  # noqa: E731
    mended = recovery.reestimate(train, masked, [network.x])
    wanted = outputs(network)(masked, network.x)
    assert jnp.abs(network.function(masked, network.x) - wanted).max() > 1e-3
    np.testing.assert_allclose(network.function(mended, network.x), wanted, atol=1e-9)


def test_a_training_mode_is_tested_wherever_there_is_one():
    assert [name for name in NAMES if made(name).train] == TRAINED
