"""Compact functions of others become ONNX where the whole ones do."""

import jax
import jax.numpy as jnp
import networks
import pytest
from flax import linen as nn
from layers import conv

from bbo import compaction
from bbo.compaction import export

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)
W = {"a": jax.random.normal(KEY, (3, 3, 3, 8)).at[..., :4].set(0.0), "o": jnp.ones((8, 3))}


def convolved(w, x):
    return conv(x, w["a"])


def pooled(w, x, padding):
    h = nn.max_pool(convolved(w, x), window_shape=(3, 3), strides=(2, 2), padding=padding)
    return h.mean((1, 2)) @ w["o"]


CASES = {
    "mean": lambda w, x: jnp.mean(jax.nn.relu(convolved(w, x)), (1, 2)) @ w["o"],
    "reshape": lambda w, x: jnp.mean(jnp.reshape(convolved(w, x), (-1, 36, 8)), 1) @ w["o"],
    "matmul": lambda w, x: jnp.matmul(convolved(w, x), w["o"]).sum((1, 2)),
    "max pool": lambda w, x: pooled(w, x, "VALID"),
    "padded max pool": lambda w, x: pooled(w, x, "SAME"),
}


@pytest.mark.parametrize("name", CASES)
def test_onnx(name, tmp_path):
    for module in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(module)
    images = jax.random.normal(KEY, (4, 6, 6, 3))
    small = compaction.compact(CASES[name], W, images)
    assert small.variables["a"].shape == (3, 3, 3, 4)
    path = tmp_path / "network.onnx"
    check = export.write_onnx(path, small.function, small.variables, images)
    assert check.difference <= 1e-5 and path.exists()


def test_max_pooling_is_that_of_flax():
    images = networks.random_images("vgg16", 2)[..., :3]
    weights = {"a": W["a"], "o": W["o"]}
    for padding in ("VALID", "SAME", ((1, 1), (0, 1))):
        function = lambda w, x, padding=padding: pooled(w, x, padding)  # noqa: E731
        small = compaction.compact(function, weights, images)
        given, expected = small.function(small.variables, images), function(weights, images)
        assert jnp.allclose(given, expected, rtol=1e-5, atol=1e-5)
