"""A network of Equinox and one of NNX refitted as the same written by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layers import conv

from bbo.pruning.recovery import fitted_kernels, refit_function

IMAGES = np.random.default_rng(0).standard_normal((10, 6, 6, 2)).astype(np.float32)
SHAPES = {"first": (3, 3, 2, 4), "offset": (4,), "second": (3, 3, 4, 4), "head": (4, 3)}
PARTS = {
    name: np.random.default_rng(k).standard_normal(shape).astype(np.float32)
    for k, (name, shape) in enumerate(SHAPES.items())
}
PRUNED = PARTS | {
    name: np.where(np.arange(PARTS[name].shape[-1]) % 2, PARTS[name], 0)
    for name in ("first", "offset")
}


def by_hand(w, x):
    def normal(x):
        return jax.nn.relu((x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5))

    x = normal(conv(x, w["first"]) + w["offset"])
    return normal(conv(x, w["second"])).mean((1, 2)) @ w["head"]


def of_equinox():
    """Channels first, one image at a time under ``vmap``, the head's kernel ``[out, in]``."""
    key = jax.random.key(0)

    def make():
        conv = {"padding": 1, "key": key}
        norm = {"mode": "batch", "channelwise_affine": False}
        return [
            eqx.nn.Conv2d(2, 4, 3, **conv),
            eqx.nn.BatchNorm(4, "batch", **norm),
            eqx.nn.Conv2d(4, 4, 3, use_bias=False, **conv),
            eqx.nn.BatchNorm(4, "batch", **norm),
            eqx.nn.Linear(4, 3, use_bias=False, key=key),
        ]

    layers, state = eqx.nn.make_with_state(make)()
    arrays, rest = eqx.partition(layers, eqx.is_array)

    def function(arrays, x):
        conv1, norm1, conv2, norm2, head = eqx.combine(arrays, rest)

        def one(x):
            states = jax.tree.map(lambda leaf: leaf, state)
            x, states = norm1(conv1(jnp.moveaxis(x, -1, 0)), states)
            x, states = norm2(conv2(jax.nn.relu(x)), states)
            return head(jax.nn.relu(x).mean((1, 2))), states

        return jax.vmap(one, axis_name="batch", out_axes=(0, None))(x)

    def filled(w):
        places = lambda tree: (tree[0].weight, tree[0].bias, tree[2].weight, tree[4].weight)  # noqa: E731
        kernels = [jnp.transpose(w[name], (3, 2, 0, 1)) for name in ("first", "second")]
        offset, head = jnp.asarray(w["offset"])[:, None, None], jnp.transpose(w["head"])
        return eqx.tree_at(places, arrays, (kernels[0], offset, kernels[1], head))

    return function, filled


class Net(nnx.Module):
    def __init__(self, rngs):
        norm = {"use_bias": False, "use_scale": False, "rngs": rngs}
        self.conv1 = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(4, **norm)
        self.conv2 = nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(4, use_fast_variance=False, **norm)
        self.dropout = nnx.Dropout(1e-9, rngs=rngs)
        self.head = nnx.Linear(4, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm1(self.conv1(x))))
        return self.head(nnx.relu(self.norm2(self.conv2(x))).mean((1, 2)))


def of_nnx():
    """With random keys among its variables."""
    graph, state = nnx.split(Net(nnx.Rngs(0)))

    def function(state, x):
        network = nnx.merge(graph, state)
        return network(x), nnx.state(network)

    def filled(w):
        network = nnx.merge(graph, jax.tree.map(jnp.copy, state))
        network.conv1.kernel[...] = jnp.asarray(w["first"])
        network.conv1.bias[...] = jnp.asarray(w["offset"])
        network.conv2.kernel[...] = jnp.asarray(w["second"])
        network.head.kernel[...] = jnp.asarray(w["head"])
        return nnx.state(network)

    return function, filled


@pytest.mark.parametrize("make", [of_equinox, of_nnx])
def test_a_framework_is_refitted_as_what_it_computes(make):
    function, filled = make()
    dense, pruned = filled(PARTS), filled(PRUNED)
    wanted = by_hand(PARTS, IMAGES)
    np.testing.assert_allclose(function(dense, IMAGES)[0], wanted, atol=1e-4)
    expected = refit_function(by_hand, PARTS, PRUNED, IMAGES)
    mended = refit_function(function, dense, pruned, IMAGES)
    assert jax.tree.structure(mended) == jax.tree.structure(pruned)
    for new, old in zip(jax.tree.leaves(mended), jax.tree.leaves(filled(expected)), strict=True):
        if jnp.issubdtype(new.dtype, jnp.floating):
            np.testing.assert_allclose(new, old, atol=1e-4)
    error = lambda v: np.square(np.asarray(function(v, IMAGES)[0]) - wanted).mean()  # noqa: E731
    assert error(mended) < 0.25 * error(pruned)
    assert set(fitted_kernels(function, pruned, IMAGES).values()) == {""}
    assert len(fitted_kernels(function, pruned, IMAGES)) == 4
