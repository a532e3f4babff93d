"""Bytes of arrays and of activations against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from networks import build

from bbo.compaction import cost


def float32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_bytes_of_arrays():
    tree = {"half": jnp.zeros((3, 5), jnp.bfloat16), "mask": np.ones(7, bool), "none": None}
    assert cost.array_bytes(tree) == 30 + 7
    assert cost.array_bytes([float32(2, 3), jax.random.key(0)]) == 24 + 8
    model = build("vgg16")
    variables = jax.eval_shape(model.init, jax.random.key(0), float32(1, 32, 32, 3))
    assert cost.array_bytes(variables["params"]) == 4 * cost.num_params(variables["params"])


def test_bytes_of_activations(monkeypatch):
    weights = {"in": float32(16, 256), "out": float32(256, 4)}

    def network(weights, x):
        return jnp.tanh(x @ weights["in"]) @ weights["out"]

    hidden = 32 * 256 * 4
    # Before and after tanh; the result is there when the former is not.
    assert cost.activation_bytes(network, weights, float32(32, 16)) == 2 * hidden
    # A shortcut is alive across what it goes around.
    around = lambda w, x: (y := x @ w["in"]) + jnp.tanh(jnp.sin(y))  # noqa: E731
    assert cost.activation_bytes(around, weights, float32(32, 16)) == 3 * hidden
