"""Channels that are zero all the time in a loop."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from bbo import compaction

X = jnp.linspace(-1.0, 1.0, 30).reshape(5, 6)
WIDTH, DEAD = 8, [1, 4, 6]


def weights(**shapes):
    like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return masking.draw(like)


def recurrent(start, activation=jnp.tanh):
    def function(w, x):
        def step(h, x):
            h = activation(x @ w["in"] + h @ w["around"])
            return h, h

        last, every = lax.scan(step, jnp.full(WIDTH, start), x)
        return (last + every) @ w["out"]

    return function


def until_it_is_large(w, x):
    def around(state):
        count, h = state
        return count + 1, jnp.tanh(x[count] @ w["in"] + h @ w["around"])

    return (
        lax.while_loop(lambda s: (s[0] < 5) & (s[1].sum() < 9), around, (0, jnp.zeros(WIDTH)))[1]
        @ w["out"]
    )


def within_another(w, x):
    def outer(h, x):
        inner = lambda _, h: jnp.tanh(h @ w["around"]) + x @ w["in"]  # noqa: E731
        return lax.fori_loop(0, 2, inner, h), None

    return lax.scan(outer, jnp.zeros(WIDTH), x)[0] @ w["out"]


WEIGHTS = weights(**{"in": (6, WIDTH), "around": (WIDTH, WIDTH), "out": (WIDTH, 3)})


def dead_of(function, w):
    small = compaction.compact(function, w, X)
    full, less = jax.jit(function)(w, X), small.function(small.variables, X)
    assert masking.difference(full, less) <= 1e-6
    return small.cut.get(("in", 1), np.array([])).tolist()


@pytest.mark.parametrize("function", [recurrent(0.0), until_it_is_large, within_another])
def test_units_that_begin_as_zero_and_stay_so(function):
    masked = {("in", 1): np.array(DEAD), ("around", 1): np.array(DEAD)}
    assert dead_of(function, masking.masked(WEIGHTS, masked)) == DEAD
    for member in masked:
        assert dead_of(function, masking.masked(WEIGHTS, {member: masked[member]})) == []


def test_units_that_do_not_begin_or_do_not_stay_as_zero():
    masked = {("in", 1): np.array(DEAD), ("around", 1): np.array(DEAD)}
    zeroed = masking.masked(WEIGHTS, masked)
    assert dead_of(recurrent(1.0), zeroed) == []
    assert dead_of(recurrent(0.0, jax.nn.sigmoid), zeroed) == []


@pytest.mark.parametrize(
    "places, zeros, dead",
    [(2, [1, 3, 5, 7], [1, 3, 5, 7]), (2, [1, 3, 5, 6], []), (8, [1, 3, 5, 6], [1, 3, 5, 6])],
)
def test_what_moves_around_is_followed_until_nothing_changes(places, zeros, dead):
    def function(w, x):
        step = lambda h, x: (jnp.roll(h, places) + x @ w["in"], None)  # noqa: E731
        return lax.scan(step, jnp.zeros(WIDTH), x)[0] @ w["out"]

    assert dead_of(function, masking.masked(WEIGHTS, {("in", 1): np.array(zeros)})) == dead


@pytest.mark.parametrize(
    "cell", [nn.GRUCell, nn.LSTMCell, nn.OptimizedLSTMCell, nn.SimpleCell, nn.MGUCell]
)
def test_cells_of_linen(cell):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.RNN(cell(WIDTH))(x))

    inputs = jnp.stack([X, -X])
    variables = masking.draw(jax.eval_shape(Network().init, jax.random.key(0), inputs))
    masking.check(Network().apply, variables, inputs, seeds=range(2), tolerance=1e-6)


def test_a_residual_stream_through_scanned_layers():
    w = weights(stem=(6, WIDTH), up=(3, WIDTH, 5), down=(3, 5, WIDTH), out=(WIDTH, 2))

    def function(w, x):
        def layer(x, part):
            return x + jax.nn.gelu(x @ part["up"]) @ part["down"], None

        parts = {name: w[name] for name in ("up", "down")}
        return lax.scan(layer, x @ w["stem"], parts)[0] @ w["out"]

    masking.check(function, w, X, seeds=range(4), tolerance=1e-5)


@pytest.mark.parametrize("factor, dead", [(2.0, DEAD), (np.inf, [])])
def test_zero_times_what_becomes_infinite_in_a_loop_is_no_zero(factor, dead):
    def function(w, x):
        def step(carry, x):
            h, scale = carry
            return (h * scale + x @ w["in"], w["scale"]), None

        start = (jnp.zeros(WIDTH), jnp.ones(WIDTH))
        return lax.scan(step, start, x[:2])[0][0] @ w["out"]

    scale = jnp.ones(WIDTH).at[np.array(DEAD)].set(factor)
    w = masking.masked(WEIGHTS, {("in", 1): np.array(DEAD)}) | {"scale": scale}
    small = compaction.compact(function, w, X)
    assert small.cut.get(("in", 1), np.array([])).tolist() == dead
