"""Compact functions of other shapes, dtypes and settings than the example's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze

from bbo import compaction
from bbo.types import UsageError

GENERATOR = np.random.default_rng(0)
W = {
    "a": jnp.asarray(GENERATOR.standard_normal((6, 8)), jnp.float32).at[:, 0].set(0.0),
    "b": jnp.zeros(8),
    "o": jnp.asarray(GENERATOR.standard_normal((8, 3)), jnp.float32),
}
X = jnp.asarray(GENERATOR.standard_normal((5, 6)), jnp.float32)


def network(w, x):
    return jax.nn.relu(x @ w["a"] + w["b"]) @ w["o"]


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_other_dtypes(dtype):
    function = lambda w, x: jnp.sin(x @ w["a"] + w["b"]) @ w["o"]  # noqa: E731
    small = compaction.compact(function, W, X)
    given = small.function(cast(small.variables, dtype), cast(X, dtype))
    expected = function(cast(W, dtype), cast(X, dtype))
    assert given.dtype == expected.dtype == dtype
    np.testing.assert_allclose(given, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, jnp.asarray(0.07), np.float32(0.07)])
def test_weak_types_stay_weak(temperature):
    weights = cast(W, jnp.bfloat16) | {"temperature": temperature}
    function = lambda w, x: network(w, x) / w["temperature"]  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):
        x = X.astype(jnp.bfloat16)
        small = compaction.compact(function, weights, x)
        expected = function(weights, x)
        assert small.variables["a"].shape == (6, 7)
        assert type(small.variables["temperature"]) is type(temperature)
        given = small.function(small.variables, x)
    assert given.dtype == expected.dtype
    np.testing.assert_array_equal(given, expected)


def test_weak_arrays_stay_weak():
    weights = W | {"b": jnp.broadcast_to(jnp.asarray(0.0), (8,))}
    assert weights["b"].weak_type
    small = compaction.compact(network, weights, X)
    assert small.variables["b"].shape == (7,) and small.variables["b"].weak_type


class Net(nn.Module):
    """Its settings are neither parameters nor inputs."""

    @nn.compact
    def __call__(self, x, train, order=None, power=1):
        assert order in (None, "twice") and isinstance(train, bool) and isinstance(power, int)
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        x = jnp.concatenate([x, x]) if order == "twice" else x
        return nn.Dense(3)(nn.relu(x) ** power)


@pytest.mark.parametrize(
    "inputs, kwargs",
    [
        ((X,), {"train": False}),
        ((X, False), {}),
        ((), {"x": X, "train": False}),
        ((X,), {"train": False, "order": "twice", "power": 3}),
        ((X, False, None, 2), {"rngs": {"dropout": jax.random.key(0)}, "mutable": False}),
    ],
)
def test_static_arguments_and_keywords(inputs, kwargs):
    net = Net()
    variables = net.init(jax.random.key(0), X, train=False)
    variables["params"]["BatchNorm_0"]["scale"] = jnp.ones(8).at[2].set(0.0)
    found = compaction.find_channels(net.apply, variables, *inputs, **kwargs)
    assert [group.size for group in found.removable] == [8]
    small = compaction.compact(net.apply, variables, *inputs, **kwargs)
    assert small.variables["params"]["Dense_0"]["kernel"].shape == (6, 7)
    given = small.function(small.variables, *inputs, **kwargs)
    expected = net.apply(variables, *inputs, **kwargs)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


def test_settings_are_told_apart():
    def function(w, x, double, scale=1.0):
        assert isinstance(double, bool | float)
        return network(w, x) * (2 if double is True else 1) * scale

    small = compaction.compact(function, W, X, True)
    expected = network(W, X)
    for double, factor in ((True, 2), (1.0, 1), (False, 1)):
        given = small.function(small.variables, X, double)
        np.testing.assert_allclose(given, factor * expected, rtol=1e-5)
    given = small.function(small.variables, X, False, scale=jnp.float32(3.0))
    np.testing.assert_allclose(given, 3 * expected, rtol=1e-5)


def test_the_function_is_read_once_for_each_shape():
    shapes = []

    def function(w, x):
        shapes.append(x.shape)
        return network(w, x)

    small = compaction.compact(function, W, X)
    for x in (X, X[:2], X[:2], X):
        np.testing.assert_allclose(small.function(small.variables, x), network(W, x), rtol=1e-5)
    assert shapes == [(5, 6), (2, 6)]


def test_what_is_closed_over_while_tracing_is_not_kept():
    holder = {"scale": 1.0}
    small = compaction.compact(lambda w, x: network(w, x) * holder["scale"], W, X)

    def outer(scale, x):
        holder["scale"] = scale
        return small.function(small.variables, x)

    for scale in (2.0, 3.0):
        given = jax.jit(lambda scale, x: outer(scale, x))(jnp.float32(scale), X[:2])
        np.testing.assert_allclose(given, scale * network(W, X[:2]), rtol=1e-5)


def test_another_program_whose_channels_live():
    def function(w, x):
        hidden = jnp.cos(x @ w["a"]) if len(x) > 4 else jnp.tanh(x @ w["a"])
        return hidden @ w["o"]

    small = compaction.compact(function, W, X[:2])
    np.testing.assert_allclose(small.function(small.variables, X[:3]), function(W, X[:3]), 1e-5)
    with pytest.raises(UsageError, match="another program .* a are not dead here; compact it"):
        small.function(small.variables, X)


def test_another_program_with_other_channels():
    def function(w, x):
        hidden = jnp.tanh(x @ w["a"])
        return hidden @ w["o"] if len(x) < 4 else jnp.sort(hidden)[:, :3] + w["o"].sum(0)

    small = compaction.compact(function, W, X[:2])
    with pytest.raises(UsageError, match="another program .* it is sorted; compact it"):
        small.function(small.variables, X)


def test_a_chosen_cut_may_be_of_what_lives():
    function = lambda w, x: jnp.cos(x @ w["a"]) @ w["o"]  # noqa: E731
    cut = {("a", 1): np.array([1]), ("o", 0): np.array([1])}
    small = compaction.compact(function, W, X, removed=cut)
    expected = jnp.cos(X[:2] @ jnp.delete(W["a"], 1, 1)) @ jnp.delete(W["o"], 1, 0)
    np.testing.assert_allclose(small.function(small.variables, X[:2]), expected, rtol=1e-5)


def test_wrong_variables():
    small = compaction.compact(network, W, X)
    with pytest.raises(UsageError, match=r"a has the shape \(6, 8\), but \(6, 7\) is what is left"):
        small.function(W, X)
    with pytest.raises(UsageError, match="other variables: a, o; give those of small.variables"):
        small.function({name: small.variables[name] for name in "ao"}, X)


def test_odd_variables():
    """Integers, complex numbers, keys, empty arrays and frozen dicts."""
    weights = freeze(
        W
        | {
            "count": jnp.arange(8),
            "key": jax.random.key(3),
            "empty": jnp.zeros((0, 8)),
            "phase": jnp.ones(8, jnp.complex64) * 1j,
        }
    )

    def function(w, x):
        noise = jax.random.uniform(w["key"], (3,))
        hidden = jax.nn.relu(x @ w["a"] + w["b"]) * w["count"].astype(x.dtype)
        empty = (hidden @ w["empty"].T).sum(-1, keepdims=True)
        return (hidden * jnp.abs(w["phase"])) @ w["o"] + noise + empty

    small = compaction.compact(function, weights, X)
    assert small.cut["a", 1].tolist() == [0] and small.cut["count", 0].tolist() == [0]
    assert small.variables["empty"].shape == (0, 7) and small.variables["phase"].shape == (7,)
    given = jax.jit(small.function)(small.variables, X)
    np.testing.assert_allclose(given, function(weights, X), rtol=1e-5)
