"""Programs done again at the sizes that are left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bbo import compaction

W = {"a": jnp.arange(18.0).reshape(3, 6) / 18, "b": jnp.ones((6, 2))}
X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


def shrunk(operation, removed):
    """``operation(x @ a)`` without some channels, and what is left of the whole result."""

    def function(w, x):
        return operation(x @ w["a"]).sum(-1)

    cut = {("a", 1): np.array(removed)}
    weights = {"a": W["a"]}
    small = compaction.compact(function, weights, X, removed=cut)
    zeroed = {"a": W["a"].at[:, np.array(removed)].set(0.0)}
    return jax.jit(small.function)(small.variables, X), function(zeroed, X), small


MOVES = {
    "evenly spaced slice": (lambda h: h[:, 1:6:2], [1, 3]),
    "uneven slice": (lambda h: h[:, 1:], [2]),
    "slices of both axes": (lambda h: h[1:3, :4], [0, 3]),
    "padding inside": (lambda h: lax.pad(h, 0.0, ((1, 0, 0), (2, -1, 1))), [0, 4]),
    "split": (lambda h: jnp.stack([p.sum(-1) for p in jnp.split(h, [1, 4], 1)], -1), [2, 3, 5]),
    "tile": (lambda h: jnp.tile(h, (1, 3)), [1]),
    "repeat": (lambda h: jnp.repeat(h, 3, axis=1), [1]),
    "reversed slice": (lambda h: h[:, ::-2], [1, 2]),
    "constant": (lambda h: h * np.arange(6, dtype=np.float32), [5, 0]),
    "rows looked up": (lambda h: h[np.array([0, 3, 1, 1])], [2, 4]),
    "rows sliced where told": (
        lambda h: lax.dynamic_slice_in_dim(h, jnp.argmax(X[0]), 2),
        [2, 4],
    ),
    "padded with nothing": (lambda h: jnp.pad(h, ((0, 0), (0, 0))), [3]),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_without_some_channels(name):
    operation, removed = MOVES[name]
    given, expected, small = shrunk(operation, removed)
    np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)
    assert small.variables["a"].shape == (3, 6 - len(removed))


def test_counts_within_loops_shrink_too():
    def function(w, x):
        start = jnp.zeros((4, 6))
        body = lambda h, x: (jnp.tanh(h + x), jnp.zeros(()))  # noqa: E731
        return lax.scan(body, start, jnp.stack([x @ w["a"]] * 3))[0] @ w["b"]

    cut = {("a", 1): np.array([1, 2]), ("b", 0): np.array([1, 2])}
    small = compaction.compact(function, W, X, removed=cut)
    zeroed = {"a": W["a"].at[:, 1:3].set(0.0), "b": W["b"]}
    given = small.function(small.variables, X)
    np.testing.assert_allclose(given, function(zeroed, X), rtol=1e-5)
    text = str(jax.make_jaxpr(small.function)(small.variables, X))
    assert "[4,4]" in text and "[4,6]" not in text
