"""Noise on any tree: a mistake in one sentence, or a tree like it in which nothing else changes."""

import functools

import jax
import numpy as np
import odd_trees
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbo import noise, trees
from bbo.settings.catalog import UNITS
from bbo.types import UsageError

TARGETED = {
    "target_fraction": st.floats(0.01, 1) | st.floats(),
    "target_unit": st.sampled_from(UNITS),
}
POWER = {"q": st.floats(0.1, 4) | st.floats()}
NESTED = {"nested": st.booleans(), "draw_unit": st.sampled_from(UNITS)}
MAKERS = {
    "batch_bridgeout": POWER | TARGETED,
    "scale_free_bridgeout": POWER | TARGETED | NESTED,
    "bridgeout": POWER,
    "group_bridgeout": POWER,
    "dropconnect": {},
    "shakeout": {"c": st.floats(0, 1) | st.floats()},
    "targeted_dropout": TARGETED,
}


@given(
    data=st.data(),
    name=st.sampled_from(list(MAKERS)),
    tree=odd_trees.TREES,
    on=odd_trees.SELECTORS,
)
def test_what_is_not_selected_stays_and_the_rest_keeps_its_shape(data, name, tree, on):
    settings = {key: data.draw(values, key) for key, values in MAKERS[name].items()}
    rate = data.draw(st.floats(0.01, 0.99) | st.floats(), "rate")

    def check(key):
        noisy = getattr(noise, name)(rate=rate, on=on, **settings).weights(key, tree)
        assert jax.tree.structure(noisy) == jax.tree.structure(tree)
        chosen = trees.select(tree, noise.spatial_kernels if on is None else on)
        for leaf, other, is_chosen in zip(
            *map(jax.tree.leaves, (tree, noisy, chosen)), strict=True
        ):
            if is_chosen:
                assert (other.shape, other.dtype) == (leaf.shape, leaf.dtype)
            else:
                assert other is leaf

    try:
        jax.eval_shape(check, jax.random.key(0))
    except UsageError as error:
        assert "\n" not in str(error)


SHAPE = (3, 3, 2, 5)
SETTINGS = {"q": 0.5, "c": 0.3, "target_fraction": 0.6, "target_unit": "filter"}


@functools.cache
def noise_and_derivative(name):
    """Of weights and of the slopes behind them, compiled."""
    given = {key: SETTINGS[key] for key in MAKERS[name] if key in SETTINGS}
    regulariser = getattr(noise, name)(rate=0.4, **given)

    @jax.jit
    def both(weights, slopes):
        draw = lambda w: regulariser.weights(jax.random.key(1), {"kernel": w})["kernel"]  # noqa: E731
        noisy, back = jax.vjp(draw, weights)
        return noisy, back(slopes)[0]

    return both


@pytest.mark.parametrize("name", MAKERS)
@given(weights=odd_trees.arrays(SHAPE), slopes=odd_trees.arrays(SHAPE, kinds=("plain",)))
def test_finite_weights_have_finite_noise_and_derivatives(name, weights, slopes):
    for found in noise_and_derivative(name)(weights, slopes):
        assert np.isfinite(found).all()
