"""Noise by a description of the network: the same in every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise
from bbo.compaction import find_channels
from bbo.types import UsageError

X = jnp.ones((2, 6, 6, 3))
LAYOUTS = {"HWIO": (0, 1, 2, 3), "OIHW": (3, 2, 0, 1), "IOHW": (2, 3, 0, 1)}
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 3, 8))
OUT = jax.random.normal(jax.random.key(2), (8, 5))


def network(layout, weights, x):
    y = jax.lax.conv_general_dilated(
        x, weights["w"], (1, 1), "SAME", dimension_numbers=("NHWC", layout, "NHWC")
    )
    return jnp.mean(jax.nn.relu(y), (1, 2)) @ weights["out"]


def described(layout):
    weights = {"w": jnp.transpose(KERNEL, LAYOUTS[layout]), "out": OUT}
    function = lambda weights, x: network(layout, weights, x)  # noqa: E731
    return weights, find_channels(function, weights, X)


MAKERS = {
    "batch_bridgeout": {"q": 1.0},
    "scale_free_bridgeout": {"q": 1.0, "nested": True, "draw_unit": "filter"},
    "bridgeout": {"q": 1.5},
    "group_bridgeout": {"q": 1.0},
    "dropconnect": {},
    "shakeout": {"c": 0.5},
    "targeted_dropout": {"target_fraction": 0.5, "target_unit": "kernel"},
}


@pytest.mark.parametrize("name", MAKERS)
def test_layouts_make_no_difference(name):
    noisy = {}
    for layout, axes in LAYOUTS.items():
        weights, channels = described(layout)
        regulariser = getattr(noise, name)(rate=0.5, channels=channels, **MAKERS[name])
        found = regulariser.weights(jax.random.key(0), weights)
        assert (found["out"] == weights["out"]).all()
        noisy[layout] = np.transpose(found["w"], np.argsort(axes))
    assert (noisy["HWIO"] != KERNEL).any()
    # In the layout that is taken for granted otherwise, it is the noise without a description.
    plain = getattr(noise, name)(rate=0.5, **MAKERS[name])
    expected = plain.weights(jax.random.key(0), {"w": KERNEL})["w"]
    for found in noisy.values():
        np.testing.assert_array_equal(found, expected)


def stacked():
    """Weights of four layers in a scan, and the description of it."""
    weights = {"up": jax.random.normal(jax.random.key(3), (4, 6, 8)), "down": jnp.ones((4, 8, 6))}

    def blocks(weights, x):
        def block(h, w):
            return h + jax.nn.relu(h @ w["up"]) @ w["down"], None

        return jax.lax.scan(block, x, weights)[0]

    return weights, find_channels(blocks, weights, jnp.ones((2, 6)))


def test_each_stacked_kernel_has_its_own_draw():
    weights, channels = stacked()
    drop = noise.dropconnect(rate=0.5, channels=channels, on="up")
    kept = drop.weights(jax.random.key(0), weights)["up"] != 0
    assert not any((kept[i] == kept[j]).all() for i in range(4) for j in range(i))


def test_each_stacked_kernel_is_by_itself():
    weights, channels = stacked()
    noisy = noise.targeted_dropout(
        rate=0.999999, target_fraction=0.5, target_unit="filter", channels=channels, on="up"
    ).weights(jax.random.key(0), weights)
    # The weakest half of each layer's filters, not the weakest over all layers.
    norms = np.linalg.norm(weights["up"], axis=1)
    weak = np.argsort(np.argsort(norms, axis=1), axis=1) < 4
    np.testing.assert_array_equal((np.asarray(noisy["up"]) == 0).all(axis=1), weak)
    assert (noisy["down"] == 1).all()


def test_by_default_what_can_be_removed_is_perturbed():
    weights, channels = described("OIHW")
    regulariser = noise.dropconnect(rate=0.5, channels=channels)
    noisy = regulariser.weights(jax.random.key(0), weights)
    changed = {name for name in weights if (noisy[name] != weights[name]).any()}
    assert changed == {"w"}  # what "out" puts out is the result
    noisy = noise.dropconnect(rate=0.5, channels=channels, on="out").weights(
        jax.random.key(0), weights
    )
    assert (noisy["w"] == weights["w"]).all() and (noisy["out"] != weights["out"]).any()


def test_a_description_of_other_parameters_is_refused():
    weights = {"params": {"w": KERNEL, "out": OUT}}
    channels = find_channels(lambda v, x: network("HWIO", v["params"], x), weights, X)
    regulariser = noise.dropconnect(rate=0.5, channels=channels)
    with pytest.raises(UsageError, match=r"params/w, .* channels.within\('params'\)"):
        regulariser.weights(jax.random.key(0), weights["params"])
    inside = noise.dropconnect(rate=0.5, channels=channels.within("params"))
    noisy = inside.weights(jax.random.key(0), weights["params"])
    assert (noisy["w"] != KERNEL).any()


def test_a_network_of_which_nothing_can_be_removed_is_refused():
    channels = find_channels(lambda w, x: x @ w["out"], {"out": OUT}, jnp.ones((2, 8)))
    with pytest.raises(UsageError, match="no kernel whose filters can be removed; pass on="):
        noise.dropconnect(rate=0.5, channels=channels).weights(jax.random.key(0), {"out": OUT})


def test_an_array_that_is_read_in_two_ways_is_refused_where_it_is_meant():
    weights = {"tied": jnp.ones((3, 5)), "out": jnp.ones((3, 2))}
    function = lambda w, x: jnp.tanh(x @ w["tied"]) @ w["tied"].T @ w["out"]  # noqa: E731
    channels = find_channels(function, weights, jnp.ones((2, 3)))
    with pytest.raises(UsageError, match="tied is read in two ways: .* leave it out"):
        noise.dropconnect(rate=0.5, channels=channels).weights(jax.random.key(0), weights)
    chosen = noise.dropconnect(rate=0.5, channels=channels, on="out")
    noisy = chosen.weights(jax.random.key(0), weights)
    assert (noisy["out"] != 1).any()
