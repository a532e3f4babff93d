"""Layers stacked for a scan: each loses its own weakest channels."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import bbo
from bbo.compaction.channels import find_channels
from bbo.compaction.stacks import reordered, stacks_in
from bbo.pruning import describe
from bbo.pruning.layers import sort_layers

LAYERS, WIDTH, HIDDEN = 3, 4, 8
X = jax.random.normal(jax.random.key(1), (5, WIDTH))


def weights():
    draw = np.random.default_rng(0).standard_normal
    shapes = {"up": (WIDTH, HIDDEN), "bias": (HIDDEN,), "down": (HIDDEN, WIDTH)}
    return {name: jnp.asarray(draw((LAYERS, *shape))) for name, shape in shapes.items()}


def looped(body):
    return lambda w, x: jax.lax.scan(lambda h, k: (h + body(h, k), None), x, w)[0]


def hidden(h, k):
    return h @ k["up"] + k["bias"]


PLAIN = looped(lambda h, k: jax.nn.relu(hidden(h, k)) @ k["down"])


def halves(h, k):
    """Channels that are not alike: half of them go through a function of their own."""
    first, second = jnp.split(hidden(h, k), 2, axis=-1)
    return jnp.concatenate([jax.nn.relu(first), jnp.tanh(second)], -1) @ k["down"]


def test_each_layer_loses_its_own():
    w = weights()
    small = bbo.shrink(PLAIN, w, X, keep=0.5)
    assert small.variables["up"].shape == (LAYERS, WIDTH, HIDDEN // 2)
    norms = np.linalg.norm(w["up"], axis=1)
    dropped = {}
    for layer in range(LAYERS):
        best = np.argsort(-norms[layer])[: HIDDEN // 2]
        dropped[layer] = set(range(HIDDEN)) - set(best.tolist())
        np.testing.assert_array_equal(small.variables["up"][layer], w["up"][layer][:, best])
        np.testing.assert_array_equal(small.variables["bias"][layer], w["bias"][layer][best])
        np.testing.assert_array_equal(small.variables["down"][layer], w["down"][layer][best])
    assert len(set(map(frozenset, dropped.values()))) > 1, "the layers choose alike by chance"
    masked = jax.tree.map(jnp.array, w)
    for layer, gone in dropped.items():
        masked["up"] = masked["up"].at[layer, :, list(gone)].set(0)
        masked["bias"] = masked["bias"].at[layer, list(gone)].set(0)
    np.testing.assert_allclose(
        small.function(small.variables, X), PLAIN(masked, X), rtol=1e-5, atol=1e-5
    )
    assert "in each of 3 layers, its own" in str(small.report)


def test_keywords_are_those_of_the_function():
    def function(w, x, *, units, found):
        return PLAIN(w, x) * units + found

    small = bbo.shrink(function, weights(), X, keep=0.5, units=2.0, found=1.0)
    assert "its own" in str(small.report)


def test_scores_that_are_given_are_of_places_in_all_layers():
    small = bbo.shrink(PLAIN, weights(), X, keep=0.5, criterion={"up": jnp.arange(8.0)})
    np.testing.assert_array_equal(small.variables["up"], weights()["up"][:, :, 4:])
    assert "its own" not in str(small.report)


@pytest.mark.parametrize(
    "function",
    [
        looped(halves),
        looped(lambda h, k: hidden(h, k) * jnp.arange(1.0, HIDDEN + 1) @ k["down"]),
        lambda w, x: PLAIN(w, x) + jnp.sum(w["up"], axis=0)[:, :WIDTH].sum(),
        lambda w, x: jax.lax.scan(
            lambda h, k: (jnp.tanh(h) + hidden(x, k), None), jnp.ones((5, HIDDEN)), w
        )[0].sum(1),
    ],
    ids=["not alike", "a constant for each", "read outside", "carried around"],
)
def test_an_order_that_matters_stays(function):
    found = find_channels(function, weights(), X)
    units = describe(found).units
    assert sort_layers(function, weights(), (X,), {}, found=found, units=units).layers == {}


def test_shapes_will_do_but_not_symbols():
    for size, layers in {5: {"up": LAYERS}, jax.export.symbolic_shape("n")[0]: {}}.items():
        example = jax.ShapeDtypeStruct((size, WIDTH), jnp.float32)
        found = find_channels(PLAIN, weights(), example)
        units = describe(found).units
        assert (
            sort_layers(PLAIN, weights(), (example,), {}, found=found, units=units).layers == layers
        )


def test_the_same_network_in_another_order():
    w = weights()
    found = find_channels(PLAIN, w, X)
    (stack,) = stacks_in(found)
    order = np.random.default_rng(1).permuted(np.tile(np.arange(HIDDEN), (LAYERS, 1)), axis=1)
    other = reordered(stack, w, order)
    np.testing.assert_array_equal(other["down"][1], w["down"][1][order[1]])
    np.testing.assert_allclose(PLAIN(other, X), PLAIN(w, X), rtol=1e-5, atol=1e-5)
    wrong = PLAIN(reordered(stack, w, order, writers_only=True), X)
    assert np.abs(wrong - PLAIN(w, X)).max() > 0.1


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.Dense(WIDTH)(nn.gelu(nn.Dense(HIDDEN)(nn.LayerNorm()(x))))
        return x + y, None


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan()(x, None)[0]


def test_layers_of_linen():
    model = Stacked()
    variables = model.init(jax.random.key(0), X)
    small = bbo.shrink(model.apply, variables, X, keep=0.5)
    kernels = [leaf for leaf in jax.tree.leaves(small.variables) if leaf.ndim == 3]
    assert sorted(k.shape for k in kernels) == [(3, 4, 4), (3, 4, 4)]
    assert str(small.report).count("its own") == 1
