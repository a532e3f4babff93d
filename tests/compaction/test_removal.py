"""Masked networks and their compact ones give the same."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import masking
import networks
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from bbo.compaction import channels

TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
MASKS = {"float64": range(20), "float32": range(2)}
"""Seeds: rounding is the same for all masks, so that few do in float32."""


def check(function, variables, *inputs, dtype, masks=None):
    """Variables and inputs are drawn in the dtype; their shapes are given."""
    with jax.enable_x64(dtype == "float64"):
        cast = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))  # noqa: E731
        drawn = masking.draw(jax.tree.map(cast, variables))
        given = masking.draw([jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in inputs])
        return masking.check(
            function, drawn, *given, seeds=masks or MASKS[dtype], tolerance=TOLERANCES[dtype]
        )


def shapes_of(model, *inputs):
    given = [jnp.zeros(shape) for shape in inputs]
    return jax.eval_shape(model.init, jax.random.key(0), *given)


BUNDLED = {"vgg16": 0.125, "thin_resnet20": 0.5, "resnet50": 0.125, "wrn16_4": 0.25}


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_networks(name):
    shape = networks.image_shape(name, count=1)
    narrow = networks.build(name, width=BUNDLED[name])
    check(narrow.apply, shapes_of(narrow, shape), shape, dtype="float32", masks=range(1))


def test_the_drawn_networks_tell_images_apart():
    shape = networks.image_shape("vgg16", count=2)
    narrow = networks.build("vgg16", width=BUNDLED["vgg16"])
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    first, second = np.asarray(narrow.apply(masking.draw(shapes_of(narrow, shape)), images))
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "thin_resnet20", "wrn16_4"])
def test_bundled_networks_in_float64(name):
    shape = networks.image_shape(name, count=1)
    with jax.enable_x64(True):
        narrow = networks.build(name, width=BUNDLED[name], dtype=jnp.float64)
        check(narrow.apply, shapes_of(narrow, shape), shape, dtype="float64", masks=range(1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "wrn16_4"])
def test_bundled_networks_at_full_width(name):
    shape = networks.image_shape(name, count=1)
    model = networks.build(name)
    check(model.apply, shapes_of(model, shape), shape, dtype="float32", masks=range(1))


class Dense(nn.Module):
    """Concatenation, as in DenseNet."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            y = nn.relu(nn.BatchNorm(use_running_average=True, param_dtype=x.dtype)(x))
            y = nn.Conv(4, (3, 3), param_dtype=x.dtype)(y)
            x = jnp.concatenate([x, y], axis=-1)
        return nn.Dense(5, param_dtype=x.dtype)(x.mean((1, 2)))


class Mobile(nn.Module):
    """An inverted residual block, as in MobileNet."""

    @nn.compact
    def __call__(self, x):
        dtype = x.dtype
        norm = lambda: nn.BatchNorm(use_running_average=True, param_dtype=dtype)  # noqa: E731
        x = nn.Conv(6, (3, 3), param_dtype=dtype)(x)
        y = nn.relu6(norm()(nn.Conv(12, (1, 1), param_dtype=dtype)(x)))
        y = nn.Conv(12, (3, 3), 2, feature_group_count=12, param_dtype=dtype)(y)
        y = norm()(nn.Conv(6, (1, 1), param_dtype=dtype)(nn.relu6(norm()(y))))
        x = nn.max_pool(x, (2, 2), (2, 2)) + y
        return nn.Dense(5, param_dtype=dtype)(x.reshape(x.shape[0], -1))


class Gated(nn.Module):
    """Squeeze and excite."""

    @nn.compact
    def __call__(self, x):
        dtype = x.dtype
        x = nn.Conv(8, (3, 3), param_dtype=dtype)(x)
        gate = nn.silu(nn.Dense(4, param_dtype=dtype)(x.mean((1, 2))))
        gate = nn.sigmoid(nn.Dense(8, param_dtype=dtype)(gate))
        return nn.Dense(5, param_dtype=dtype)((x * gate[:, None, None]).mean((1, 2)))


def transformer(w, x):
    """Attention of three heads and an MLP, beside a stream that the input has fixed."""
    y = jax.nn.standardize(x)
    q, k, v = (jnp.einsum("nsc,chd->nshd", y, w[name]) + w[f"{name}_bias"] for name in "qkv")
    scores = jnp.einsum("nshd,nthd->nhst", q, k) * 0.5
    x = x + jnp.einsum("nhst,nthd,hdc->nsc", jax.nn.softmax(scores), v, w["o"])
    y = jax.nn.standardize(x)
    return x + jax.nn.gelu(y @ w["up"] + w["up_bias"]) @ w["down"]


TRANSFORMER = {
    **{name: (6, 3, 4) for name in "qkv"},
    **{f"{name}_bias": (3, 4) for name in "qkv"},
    **{"o": (3, 4, 6), "up": (6, 16), "up_bias": (16,), "down": (16, 6)},
}


LINEN = {
    "DenseNet": (Dense(), (2, 6, 6, 4)),
    "MobileNet": (Mobile(), (2, 6, 6, 3)),
    "squeeze and excite": (Gated(), (2, 6, 6, 3)),
}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", LINEN)
def test_blocks(name, dtype):
    model, shape = LINEN[name]
    check(model.apply, shapes_of(model, shape), shape, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_transformer(dtype):
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in TRANSFORMER.items()}
    small = check(transformer, weights, (2, 5, 6), dtype=dtype)
    assert {name for name, _ in small.cut} == set(TRANSFORMER)


class Residual(nnx.Module):
    def __init__(self, rngs, dtype):
        self.stem = nnx.Conv(3, 6, (3, 3), param_dtype=dtype, rngs=rngs)
        self.conv = nnx.Conv(6, 6, (3, 3), param_dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, param_dtype=dtype, rngs=rngs)
        self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.head = nnx.Linear(6, 5, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        return self.head((x + self.drop(nnx.relu(self.norm(self.conv(x))))).mean((1, 2)))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nnx(dtype):
    with jax.enable_x64(dtype == "float64"):
        model = nnx.eval_shape(lambda: Residual(nnx.Rngs(0), jnp.dtype(dtype)))
    graph, weights, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    function = lambda weights, x: nnx.merge(graph, weights, rest)(x)  # noqa: E731
    check(function, weights, (2, 6, 6, 3), dtype=dtype)


def sequential(key):
    layers = [
        eqx.nn.Conv2d(3, 6, 3, padding=1, key=key),
        eqx.nn.GroupNorm(3, 6),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(6, 4, 3, key=key),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(64, 5, key=key),
    ]
    return eqx.nn.Sequential(layers)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equinox(dtype):
    with jax.enable_x64(dtype == "float64"):
        model = eqx.filter_eval_shape(sequential, jax.random.key(0))
    arrays, rest = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    function = lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x)  # noqa: E731
    check(function, arrays, (2, 3, 6, 6), dtype=dtype)


@pytest.mark.parametrize("name", ["wrn28_10", "resnet50"])
def test_channels_are_found_in_seconds(name):
    model = networks.build(name)
    variables = shapes_of(model, networks.image_shape(name))
    start = time.perf_counter()
    found = channels.find_channels(model.apply, variables, jnp.zeros(networks.image_shape(name)))
    assert time.perf_counter() - start < 10
    assert len(found.removable) == {"wrn28_10": 16, "resnet50": 37}[name]
