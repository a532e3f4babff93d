"""Derivatives of compact functions are those of the whole ones, also of an author's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bbo import compaction


@jax.custom_vjp
def quantised(x):
    """A straight-through estimator."""
    return jnp.round(x * 8) / 8


quantised.defvjp(lambda x: (quantised(x), None), lambda _, g: (g,))


@jax.custom_vjp
def reversed_gradient(x):
    return x


reversed_gradient.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@jax.custom_vjp
def product(a, b):
    return a * b


product.defvjp(lambda a, b: (a * b, (a, b)), lambda kept, g: (2 * g * kept[1], 3 * g * kept[0]))


@jax.custom_vjp
def clipped(x, low, count):
    return jnp.clip(x, low, count)


clipped.defvjp(lambda x, *given: (jnp.clip(x, *given), None), lambda _, g: (2 * g, None, None))


@jax.custom_jvp
def spike(x):
    return jnp.where(x > 0, 1.0, 0.0)


spike.defjvps(lambda tangent, _, x: tangent * jnp.exp(-(x**2)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def power(n, x):
    return x**n


@power.defjvp
def _power_jvp(n, primals, tangents):
    return power(n, *primals), 5 * tangents[0] * power(n - 1, *primals)


@jax.custom_jvp
def with_integers(x, n):
    return x * n.astype(x.dtype), n + 1


@functools.partial(with_integers.defjvp, symbolic_zeros=True)
def _with_integers_jvp(primals, tangents):
    (x, n), (moved, still) = primals, tangents
    assert isinstance(still, jax.custom_derivatives.SymbolicZero)
    return with_integers(x, n), (
        3 * moved * n.astype(x.dtype),
        np.zeros(n.shape, jax.dtypes.float0),
    )


def scanned(h):
    body = lambda h, _: (quantised(jnp.tanh(h)), None)  # noqa: E731
    return lax.scan(body, h, None, 2)[0] * h


CASES = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "selu": jax.nn.selu,
    "custom_vjp": lambda h: quantised(jnp.tanh(h)),
    "custom_vjp of what is used again": lambda h: reversed_gradient(h) * jnp.sin(h),
    "custom_vjp of one array twice": lambda h: product(h, h),
    "custom_vjp of numbers": lambda h: clipped(h, -0.5, 2),
    "custom_jvp": lambda h: spike(h) * h,
    "custom_jvp of a number that is static": lambda h: power(3, h),
    "custom_jvp of integers": lambda h: with_integers(h, jnp.arange(1, 5)[:, None])[0],
    "in a scan": scanned,
    "in vmap": lambda h: jax.vmap(lambda h: reversed_gradient(quantised(jax.nn.relu(h))))(h),
    "in a branch": lambda h: lax.cond(h[1, 0] > -9, quantised, reversed_gradient, h),
    "in jit and checkpoint": lambda h: jax.jit(jax.checkpoint(lambda h: quantised(h) * h))(h),
}
GENERATOR = np.random.default_rng(0)
W = {"a": GENERATOR.standard_normal((3, 6)), "o": GENERATOR.standard_normal((6, 2))}
W["a"][:, [1, 4]] = 0
W = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), W)
X = jnp.asarray(GENERATOR.standard_normal((4, 3)), jnp.float32).at[0].set(0.0)


def compacted(operation):
    function = lambda w, x: jnp.sum((operation(x @ w["a"]) @ w["o"]) ** 2)  # noqa: E731
    small = compaction.compact(function, W, X)
    assert small.variables["a"].shape == (3, 4)
    return function, small


def assert_same(given, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, expected
    )


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives(name):
    function, small = compacted(CASES[name])
    assert small.inlined == ()
    assert_same(small.function(small.variables, X), function(W, X))
    of_weights = jax.grad(small.function)(small.variables, X)
    assert_same(of_weights, compaction.smaller(jax.grad(function)(W, X), small.cut))

    def second(function, weights):
        return jax.grad(lambda x: jnp.sum(jax.grad(function, 1)(weights, x) ** 2))(X)

    assert_same(
        jax.jit(functools.partial(second, small.function))(small.variables), second(function, W)
    )


@pytest.mark.parametrize("name", ["relu", "custom_vjp", "custom_jvp", "in a scan"])
def test_derivatives_of_a_batch(name):
    function, small = compacted(CASES[name])
    given, expected = (
        jax.vmap(jax.grad(f, 1), (None, 0))(w, X[:, None])
        for f, w in ((small.function, small.variables), (function, W))
    )
    assert_same(given, expected)


@pytest.mark.parametrize("name", ["relu", "custom_jvp", "custom_jvp of a number that is static"])
def test_linearized(name):
    function, small = compacted(CASES[name])
    given, expected = (
        jax.linearize(lambda x, f=f, w=w: f(w, x), X)[1](jnp.ones_like(X))
        for f, w in ((small.function, small.variables), (function, W))
    )
    assert_same(given, expected)


def test_the_derivative_of_relu_at_zero_is_zero():
    function = lambda w, x: jax.nn.relu(x @ w["a"] + w["b"]).sum()  # noqa: E731
    weights = {"a": jnp.ones((3, 6)), "b": jnp.zeros(6)}
    small = compaction.compact(function, weights, jnp.zeros(3))
    assert jax.grad(small.function)(small.variables, jnp.zeros(3))["b"].tolist() == [0.0] * 6


@jax.custom_vjp
def centred_gradient(x):
    return x * 2.0


centred_gradient.defvjp(lambda x: (x * 2.0, None), lambda _, g: (g - g.mean(-1, keepdims=True),))


def test_a_rule_over_what_is_removed_is_told():
    function, small = compacted(centred_gradient)
    assert small.inlined == ("centred_gradient",)
    assert_same(small.function(small.variables, X), function(W, X))
    plain = jax.grad(lambda x: jnp.sum((2.0 * (x @ W["a"]) @ W["o"]) ** 2))(X)
    assert_same(jax.grad(small.function, 1)(small.variables, X), plain)


def test_a_rule_over_what_is_not_removed_is_kept():
    def function(w, x):
        hidden = centred_gradient(x @ w["first"])
        return jnp.sum((jnp.tanh(hidden @ w["a"]) @ w["o"]) ** 2)

    weights = W | {"first": jnp.asarray(GENERATOR.standard_normal((3, 3)), jnp.float32)}
    small = compaction.compact(function, weights, X)
    assert small.variables["a"].shape == (3, 4) and small.inlined == ()
    assert_same(jax.grad(small.function, 1)(small.variables, X), jax.grad(function, 1)(weights, X))


@jax.custom_vjp
def without_derivative(x):
    return x * 2.0


def _refuse(_, g):
    raise NotImplementedError("this has no derivative")


without_derivative.defvjp(lambda x: (x * 2.0, None), _refuse)


def test_what_has_no_derivative_has_none_after():
    _, small = compacted(without_derivative)
    assert small.inlined == ()
    with pytest.raises(NotImplementedError, match="this has no derivative"):
        jax.grad(small.function, 1)(small.variables, X)
