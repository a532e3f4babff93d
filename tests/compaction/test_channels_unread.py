"""Arrays that a function does not read stay as they are."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bbo import compaction

X = jnp.ones((5, 6))
W = {
    "a": jnp.ones((6, 8)).at[:, 2].set(0.0),
    "o": jnp.ones((8, 3)),
    "head": jnp.ones((8, 100)),
    "average": jnp.zeros(8),
    "layers": {"used": jnp.ones((2, 8, 8)), "unused": jnp.zeros((2, 8))},
}


def plain(w, x):
    return jax.nn.relu(x @ w["a"]) @ w["o"]


def unused_result(w, x):
    jax.nn.softmax(jax.nn.relu(x @ w["a"]) @ w["head"] + 1.0)
    return plain(w, x)


def passed_to_a_function(w, x):
    return jax.jit(plain)(w, x)


def passed_to_a_branch(w, x):
    return lax.cond(x[0, 0] > 0, plain, lambda w, x: -plain(w, x), w, x)


def passed_to_a_while_loop(w, x):
    step = lambda state: (state[0] + 1, plain(w, x))  # noqa: E731
    return lax.while_loop(lambda state: state[0] < 2, step, (0, jnp.zeros((5, 3))))[1]


def passed_to_a_scan(w, x):
    body = lambda h, layer: (jnp.tanh(h @ layer["used"]), None)  # noqa: E731
    return lax.scan(body, x @ w["a"], w["layers"])[0] @ w["o"]


@pytest.mark.parametrize(
    "function",
    [
        plain,
        unused_result,
        passed_to_a_function,
        passed_to_a_branch,
        passed_to_a_while_loop,
        passed_to_a_scan,
    ],
)
def test_what_is_not_read_is_not_cut(function):
    small = compaction.compact(function, W, X)
    for name, axes in (("head", (1,)), ("average", (0,)), ("layers/unused", (0, 1))):
        assert not {(name, axis) for axis in axes} & small.cut.keys()
    found = compaction.find_channels(function, W, X)
    reasons = {group.name: group.fixed for group in found.groups}
    assert reasons["average"] == reasons["layers/unused"] == "the function does not read it"


def test_what_is_read_is_still_cut():
    small = compaction.compact(plain, W, X)
    assert {member: cut.tolist() for member, cut in small.cut.items()} == {
        ("a", 1): [2],
        ("o", 0): [2],
    }
    small = compaction.compact(passed_to_a_branch, W, X)
    assert small.variables["head"].shape == (8, 100)


def test_an_unread_array_with_channels_of_one_that_is_read():
    small = compaction.compact(unused_result, W, X)
    assert small.variables["a"].shape == (6, 7)
    assert small.variables["head"].shape == (7, 100)
    assert jnp.array_equal(small.function(small.variables, X), plain(W, X))
