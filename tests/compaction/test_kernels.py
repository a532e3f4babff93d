"""Kernels read off a program: their axes in any layout."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bbo.compaction import find_channels, find_kernels
from bbo.types import UsageError


def kernels_of(function, variables, *inputs):
    return find_kernels(find_channels(function, variables, *inputs))


def roles(kernel):
    return kernel.window, kernel.inputs, kernel.outputs, kernel.stacked


def test_layouts():
    module = eqx.nn.Conv2d(3, 8, (3, 5), key=jax.random.key(0))
    weights, rest = eqx.partition(module, eqx.is_array)
    found = kernels_of(lambda w, x: eqx.combine(w, rest)(x), weights, jnp.ones((3, 8, 8)))
    assert roles(found["weight"]) == ((2, 3), (1,), (0,), ())
    assert found.keys() == {"weight"}
    linen = nn.Conv(8, (3, 5), use_bias=False)
    found = kernels_of(linen.apply, {"params": {"kernel": jnp.ones((3, 5, 3, 8))}}, X)
    assert roles(found["params/kernel"]) == ((0, 1), (2,), (3,), ())


X = jnp.ones((2, 8, 8, 3))


@pytest.mark.parametrize(
    ("equation", "shape", "expected"),
    [
        ("ni,io->no", (3, 5), ((), (0,), (1,), ())),
        ("ni,oi->no", (5, 3), ((), (1,), (0,), ())),
        ("ni,ihd->nhd", (3, 2, 4), ((), (0,), (1, 2), ())),
        ("nlj,ljo->no", (2, 4, 5), ((), (0, 1), (2,), ())),
        ("en,eno->eo", (2, 3, 5), ((), (1,), (2,), (0,))),
    ],
)
def test_products(equation, shape, expected):
    operand = {"ni": (6, 3), "nlj": (6, 2, 4), "en": (2, 3)}[equation.split(",")[0]]
    weights = {"w": jnp.arange(float(np.prod(shape))).reshape(shape)}
    function = lambda weights, x: jnp.einsum(equation, x, weights["w"])  # noqa: E731
    kernel = kernels_of(function, weights, jnp.ones(operand))["w"]
    assert roles(kernel) == expected
    standard = kernel.to_standard(weights["w"])
    assert standard.shape[1:] == tuple(
        int(np.prod([shape[a] for a in axes])) for axes in (kernel.inputs, kernel.outputs)
    )
    np.testing.assert_array_equal(kernel.from_standard(standard), weights["w"])


def test_arrays_that_scale_or_mask_a_kernel_are_none():
    weights = {"w": jnp.ones((3, 5)), "gain": jnp.ones(5), "mask": jnp.ones((3, 5), bool)}

    def function(weights, x):
        w = jnp.where(weights["mask"], weights["w"], 0)
        return x @ (w / jnp.linalg.norm(w, axis=0) * weights["gain"])

    assert kernels_of(function, weights, jnp.ones((2, 3))).keys() == {"w"}


def test_recurrent_kernels():
    network = nn.RNN(nn.GRUCell(4))
    x = jnp.ones((2, 5, 3))
    found = kernels_of(network.apply, network.init(jax.random.key(0), x), x)
    assert {name.rpartition("/")[0][-2:] for name in found} == {"ir", "iz", "in", "hr", "hz", "hn"}
    assert {roles(kernel) for kernel in found.values()} == {((), (0,), (1,), ())}


def test_an_array_that_is_read_in_two_ways_is_ambiguous():
    function = lambda w, x: (x @ w["w"]) @ w["w"].T  # noqa: E731
    kernel = kernels_of(function, {"w": jnp.ones((3, 5))}, jnp.ones((2, 3)))["w"]
    assert kernel.ambiguous == "axis 0 is inputs and outputs, axis 1 is inputs and outputs"


def test_names_within_a_collection():
    network = nn.Dense(5)
    variables = network.init(jax.random.key(0), X)
    found = find_channels(network.apply, variables, X)
    assert find_kernels(found.within("params")).keys() == {"kernel"}
    assert {name for group in found.within("params").groups for name, _ in group.members} == {
        "kernel",
        "bias",
    }
    with pytest.raises(UsageError, match="no 'state' among the variables: params"):
        found.within("state")
