"""Where arrays are zero, followed through loops and branches."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bbo import compaction
from bbo.types import UsageError

UP = jnp.ones((2, 3, 4)).at[:, :, 1].set(0.0)
WEIGHTS = {"up": UP, "down": jnp.ones((2, 4, 3))}
X = jnp.ones((5, 3))


def block(x, up, down):
    return x + jnp.tanh(x @ up) @ down


def scanned(w, x):
    return lax.scan(lambda x, layer: (block(x, *layer), None), x, (w["up"], w["down"]))[0]


def scanned_with_constants(w, x):
    return lax.fori_loop(0, 3, lambda _, x: block(x, w["up"][0], w["down"][0]), x)


def repeated(w, x):
    condition = lambda x: jnp.sum(x) < 1e3  # noqa: E731
    return lax.while_loop(condition, lambda x: block(x, w["up"][0], w["down"][0]), x)


def branched(w, x):
    hidden = lax.cond(x[0, 0] > 0, jnp.sin, jnp.tanh, x @ w["up"][0])
    return hidden @ w["down"][0]


@pytest.mark.parametrize("function", [scanned, scanned_with_constants, repeated, branched])
def test_dead_channels_are_found_within(function):
    small = compaction.compact(function, WEIGHTS, X)
    assert {member: positions.tolist() for member, positions in small.cut.items()} == {
        ("up", 2): [1],
        ("down", 1): [1],
    }
    full, less = (jax.jit(function)(WEIGHTS, X), small.function(small.variables, X))
    assert jnp.allclose(full, less, rtol=1e-6)


def test_what_does_not_stay_zero_in_a_loop_is_kept():
    def function(w, x):
        body = lambda h, _: (jnp.cos(h), None)  # noqa: E731
        return lax.scan(body, x @ w["up"][0], None, 3)[0] @ w["down"][0]

    assert compaction.compact(function, WEIGHTS, X).cut == {}


def test_a_branch_that_adds_a_constant_keeps_channels():
    def function(w, x):
        hidden = lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x @ w["up"][0])
        return hidden @ w["down"][0]

    assert compaction.compact(function, WEIGHTS, X).cut == {}


def test_what_makes_of_a_negative_zero_what_is_not_zero_keeps_channels():
    def function(w, x):
        hidden = -(x @ w["up"][0])
        return jnp.arctan2(jnp.zeros_like(hidden), hidden) @ w["down"][0]  # pi where it is -0

    assert compaction.compact(function, WEIGHTS, X).cut == {}


@pytest.mark.parametrize("value, cut", [(0.0, [1]), (1.0, [])])
def test_padding_with_zeros_and_with_others(value, cut):
    def function(w, x):
        return lax.pad(x @ w["up"][0], value, ((0, 0, 0), (0, 0, 0))) @ w["down"][0]

    small = compaction.compact(function, WEIGHTS, X)
    assert small.cut.get(("up", 2), jnp.array([])).tolist() == cut


@pytest.mark.parametrize("before, cut", [(1, [1]), (2, [])])
def test_a_window_of_padding_alone_keeps_channels(before, cut):
    def function(w, x):
        hidden = x @ w["up"][0]
        pads = ((before, 0), (0, 0))
        pooled = lax.reduce_window(hidden, -jnp.inf, lax.max, (2, 1), (1, 1), pads)
        return jnp.maximum(pooled, -1.0) @ w["down"][0]

    small = compaction.compact(function, WEIGHTS, X)
    assert small.cut.get(("up", 2), jnp.array([])).tolist() == cut


@pytest.mark.parametrize("value, cut", [(0.0, [1]), (1.0, [])])
def test_what_stands_for_places_out_of_range(value, cut):
    def function(w, x):
        hidden = x @ w["up"][0]
        rows = hidden.at[jnp.array([0, 9])].get(mode="fill", fill_value=value)
        return rows @ w["down"][0]

    small = compaction.compact(function, WEIGHTS, X)
    assert small.cut.get(("up", 2), jnp.array([])).tolist() == cut


@pytest.mark.parametrize(("multiple", "left"), [(1, 3), (2, 4), (4, 4), (8, 8), (9, 9), (16, 9)])
def test_a_cut_is_rounded_to_a_multiple_that_is_left(multiple, left):
    weights = {"in": jnp.ones((2, 9)).at[:, 2:8].set(0), "out": jnp.ones((9, 3))}
    found = compaction.find_channels(
        lambda w, x: jax.nn.relu(x @ w["in"]) @ w["out"], weights, jnp.ones(2)
    )
    dead = compaction.dead_channels(found, weights)
    small = compaction.smaller(weights, compaction.rounded(found, dead, multiple))
    assert small["in"].shape == (2, left) and small["out"].shape == (left, 3)
    assert small["in"][0].sum() == 3  # what is alive stays
    with pytest.raises(UsageError, match="multiple is 0; it must be >= 1"):
        compaction.rounded(found, dead, 0)
