"""Zero times what is not finite is no zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bbo import compaction

GENERATOR = np.random.default_rng(0)
A = jnp.asarray(GENERATOR.standard_normal((6, 8)), jnp.float32)
O = jnp.asarray(GENERATOR.standard_normal((8, 3)), jnp.float32)  # noqa: E741
X = jnp.asarray(GENERATOR.standard_normal((5, 6)), jnp.float32)
ONES = jnp.ones(8)


def normed(w, x):
    """Weight norm without an epsilon."""
    return jnp.tanh(x @ (w["a"] / jnp.linalg.norm(w["a"], axis=0) * w["g"])) @ w["o"]


def scaled(w, x):
    return (x @ w["a"]) * w["g"] @ w["o"]


def divided(w, x):
    return (x @ w["a"]) / w["g"] @ w["o"]


def divided_then_masked(w, x):
    return (x @ w["a"]) / w["g"] * w["mask"] @ w["o"]


def reciprocal_of_zero(w, x):
    hidden = jnp.tanh(x @ w["a"])
    return hidden * lax.rsqrt(jnp.sum(hidden**2, axis=0)) @ w["o"]


def logarithm_of_zero(w, x):
    hidden = jax.nn.relu(x @ w["a"])
    return hidden * jnp.log(hidden) @ w["o"]


def in_a_loop(w, x):
    body = lambda h, _: (jnp.tanh(h * w["g"]), None)  # noqa: E731
    return lax.scan(body, x @ w["a"], None, 2)[0] * w["mask"] @ w["o"]


Z = A.at[:, 0].set(0.0)
NOT_FINITE = {
    "weight norm": (normed, {"a": Z, "g": ONES.at[0].set(0.0), "o": O}),
    "infinite scale": (scaled, {"a": Z, "g": ONES.at[0].set(jnp.inf), "o": O}),
    "no number as scale": (scaled, {"a": Z, "g": ONES.at[0].set(jnp.nan), "o": O}),
    "infinite rows": (scaled, {"a": Z, "g": ONES, "o": O.at[0].set(jnp.inf)}),
    "zero scale of infinite rows": (
        scaled,
        {"a": A, "g": ONES.at[0].set(0.0), "o": O.at[0, 1].set(-jnp.inf)},
    ),
    "infinite columns": (scaled, {"a": A.at[:, 0].set(jnp.inf), "g": ONES.at[0].set(0.0), "o": O}),
    "0 / 0": (divided, {"a": Z, "g": ONES.at[0].set(0.0), "o": O}),
    "1 / 0 * 0": (
        divided_then_masked,
        {"a": A, "g": ONES.at[0].set(0.0), "mask": ONES.at[0].set(0.0), "o": O},
    ),
    "0 * rsqrt(0)": (reciprocal_of_zero, {"a": Z, "o": O}),
    "0 * log(0)": (logarithm_of_zero, {"a": Z, "o": O}),
    "in a loop": (
        in_a_loop,
        {"a": A, "g": ONES.at[0].set(jnp.nan), "mask": ONES.at[0].set(0.0), "o": O},
    ),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_stays(name):
    function, weights = NOT_FINITE[name]
    small = compaction.compact(function, weights, X)
    expected = function(weights, X)
    assert not jnp.isfinite(expected).all()
    np.testing.assert_allclose(small.function(small.variables, X), expected, rtol=1e-5)
    assert all(len(cut) < 1 for cut in small.cut.values())


def attention(w, x):
    """A mask of -inf, and a buffer that holds one."""
    scores = jnp.where(jnp.tri(5, dtype=bool), x @ x.T, -jnp.inf) + w["buffer"]
    return jax.nn.softmax(scores) @ (x @ w["a"]) @ w["o"]


FINITE = {
    "weight norm with epsilon": (
        lambda w, x: jnp.tanh(x @ (w["a"] / (jnp.linalg.norm(w["a"], axis=0) + 1e-6))) @ w["o"],
        {"a": Z, "o": O},
    ),
    "weight norm of another channel": (
        normed,
        {"a": A.at[:, 3].set(1.0), "g": ONES.at[0].set(0.0), "o": O},
    ),
    "batch norm": (
        lambda w, x: (x @ w["a"] - w["mean"]) * lax.rsqrt(w["var"] + 1e-5) * w["g"] @ w["o"],
        {"a": A, "mean": ONES, "var": ONES * 0, "g": ONES.at[0].set(0.0), "o": O},
    ),
    "masks of -inf": (
        attention,
        {"a": Z, "o": O, "buffer": jnp.where(jnp.tri(5, dtype=bool), 0.0, -jnp.inf)},
    ),
    "not finite where another channel is": (
        lambda w, x: jnp.tanh((x @ w["a"]) * w["g"]) @ w["o"],
        {"a": Z, "g": ONES.at[3].set(jnp.inf), "o": O},
    ),
}


@pytest.mark.parametrize("name", FINITE)
def test_what_is_finite_goes(name):
    function, weights = FINITE[name]
    small = compaction.compact(function, weights, X)
    assert small.cut["a", 1].tolist() == [0]
    given, expected = small.function(small.variables, X), function(weights, X)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_parameters_that_are_not_finite_elsewhere():
    weights = {"a": Z.at[:, 3].set(jnp.nan), "g": ONES, "o": O}
    small = compaction.compact(scaled, weights, X)
    assert small.cut["a", 1].tolist() == [0]
    assert jnp.isnan(small.function(small.variables, X)).all()
