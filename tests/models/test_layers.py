"""The layers of all networks: their one convolution and their initial weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from bbo.models.layers import BatchNorm, TrainedBatchNorm, conv2d, max_pool, xavier_uniform


@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (1, 1, 4, 6), (6, 4)])
def test_xavier_uniform_is_that_of_jax_with_gain_sqrt_2(shape):
    key = jax.random.key(3)
    reference = jax.nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
    mine, theirs = xavier_uniform(key, shape), reference(key, shape, jnp.float32)
    assert mine.dtype == theirs.dtype == jnp.float32
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((2, 2), 3, 1),
        ((2, 2), 3, 2),
        ((4, 3), 5, 1),
        ((2, 7), 3, 2),
        ((1, 2), 3, 1),
        ((6, 6), 3, 2),
    ],
)
def test_conv2d_equals_lax(dtype, size, kernel, stride):
    generator = np.random.default_rng(0)
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "feature_group_count": 1,
        "precision": lax.Precision.HIGHEST,
    }
    geometry = ((stride, stride), [(kernel // 2, kernel // 2)] * 2)
    out_shape = (2, *((n - 1) // stride + 1 for n in size), 4)

    def value_and_gradients(convolution, x, w, upstream):
        out, pullback = jax.vjp(lambda x, w: convolution(x, w, *geometry, **options), x, w)
        return out, *pullback(upstream)

    with jax.enable_x64(True):
        arguments = [
            jnp.asarray(generator.standard_normal(shape), dtype)
            for shape in ((2, *size, 5), (kernel, kernel, 5, 4), out_shape)
        ]
        own = functools.partial(value_and_gradients, conv2d)
        reference = functools.partial(value_and_gradients, lax.conv_general_dilated)
        results = zip(jax.jit(own)(*arguments), jax.jit(reference)(*arguments), strict=True)
        program = str(jax.make_jaxpr(own)(*arguments))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for mine, theirs in results:
        assert mine.dtype == theirs.dtype == dtype
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    assert ("conv_general_dilated" in program) == (size == (6, 6))


@pytest.mark.parametrize("option", [{"feature_group_count": 2}, {"rhs_dilation": (2, 2)}])
def test_conv2d_leaves_special_convolutions_to_lax(option):
    x, w = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4 // option.get("feature_group_count", 1), 4))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | option
    programs = [
        str(jax.make_jaxpr(lambda f=f: f(x, w, (1, 1), [(2, 2), (2, 2)], **options))())
        for f in (conv2d, lax.conv_general_dilated)
    ]
    assert programs[0] == programs[1]


@pytest.mark.parametrize("shape", [(3, 8, 8, 5), (2, 5, 7, 3), (1, 2, 2, 1)])
def test_max_pool_and_its_derivatives_are_those_of_flax(shape):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.integers(0, 3, shape), jnp.float32)  # of which many are equal
    tangent = jnp.asarray(generator.standard_normal(shape), jnp.float32)

    def theirs(x):
        return nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))

    (mine, pullback), (expected, other) = jax.vjp(max_pool, x), jax.vjp(theirs, x)
    upstream = jnp.asarray(generator.standard_normal(mine.shape), jnp.float32)
    np.testing.assert_array_equal(mine, expected)
    np.testing.assert_array_equal(pullback(upstream)[0], other(upstream)[0])
    forward = [jax.jvp(pool, (x,), (tangent,))[1] for pool in (max_pool, theirs)]
    np.testing.assert_array_equal(*forward)


def test_max_pool_of_no_number_is_none():
    x = jnp.full((1, 2, 2, 1), jnp.nan)
    assert (
        jnp.isnan(max_pool(x)).all()
        and jnp.isfinite(jax.grad(lambda x: max_pool(x).sum())(x)).all()
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_in_training_remembers_only_what_it_read(dtype):
    """One array of the size of its input, in the input's dtype; the derivative is Flax's."""
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 3)).astype(dtype)
    options = {"use_running_average": False, "epsilon": 1e-5}
    stats = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    scale = jnp.arange(1.0, 4.0)
    params = {"scale": scale, "bias": -scale}

    def pulled_back(kind):
        def normalised(params, x):
            variables = {"params": params, "batch_stats": stats}
            layer = kind(**options)
            return layer.apply(variables, x, method="normalise", mutable=["batch_stats"])

        y, pullback, updates = jax.vjp(normalised, params, x, has_aux=True)
        return (y, pullback(jnp.sin(x)), updates), pullback

    result, pullback = pulled_back(TrainedBatchNorm)
    expected, _ = pulled_back(BatchNorm)
    assert [leaf.dtype for leaf in jax.tree.leaves(pullback) if leaf.size == x.size] == [dtype]
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        close = {"rtol": 1e-6 if one.dtype == jnp.float32 else 1e-2, "atol": 1e-6}
        np.testing.assert_allclose(one.astype(jnp.float32), other.astype(jnp.float32), **close)
