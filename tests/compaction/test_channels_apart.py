"""Odd uses of channels that can be removed all the same, and what stays alive in them.

Each case is a function of weights and of ``h = x @ a``, [5, 8].
"""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from jax import lax
from masking import X, dense

from bbo import compaction


@jax.custom_vjp
def straight_through(h):
    return jnp.round(h * 4.0) / 4.0


straight_through.defvjp(lambda h: (straight_through(h), None), lambda _, g: (g,))


def fast_layer_norm(w, h):
    mean, square = (jnp.mean(y, axis=-1, keepdims=True) for y in (h, h * h))
    return (h - mean) * lax.rsqrt(square - mean * mean + 1e-3) * w["scale"] + w["shift"]


def two_pass_layer_norm(w, h):
    centred = h - h.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3)


def group_norm(w, h):
    groups = h.reshape(5, 2, 4)
    mean, square = (jnp.mean(y, axis=-1, keepdims=True) for y in (groups, groups * groups))
    normed = (groups - mean) * lax.rsqrt(square - mean * mean + 1e-3)
    return normed.reshape(5, 8) * w["scale"] + w["shift"]


def with_gradient(w, h):
    return jax.grad(lambda h: jnp.sum(jnp.tanh(h @ w["b"]) ** 2))(h)


def split_and_mixed(h):
    return h.reshape(5, 4, 2).transpose(0, 2, 1).reshape(5, 8)


def normed(operation):
    return lambda w, h: operation(w, h) @ w["b"]


def concatenated(w, h):
    return jnp.concatenate([h[:, :4], h[:, 4:] * 2, h[:, ::2] - h[:, 1::2]], 1) @ w["b16"][:12]


ROWS = np.array([4, 0, 0, 2, 3])
EACH = np.array([[0, 2, 4, 1, 1, 3, 0, 2], [4, 4, 0, 1, 2, 0, 3, 3]])


def scattered(h):
    return jax.vmap(lambda c, i: jnp.zeros(5).at[i].add(c), (1, 1), 1)(h, np.tile(ROWS, (8, 1)).T)


def scanned_in_parallel(h):
    def after(one, other):
        return one[0] * other[0], other[0] * one[1] + other[1]

    return lax.associative_scan(after, (jnp.full((5, 8), 0.9), h))[1]


AT_PLACES = {
    "rows": lambda h: h[ROWS],
    "rows by input": lambda h: jnp.take(h, jnp.argsort(X[:, 0]), axis=0),
    "rows or zero": lambda h: h.at[ROWS + 2].get(mode="fill", fill_value=0),
    "take_along_axis": lambda h: jnp.take_along_axis(h, EACH, 0),
    "row set to zero": lambda h: h.at[1].set(0.0),
    "rows added": lambda h: h.at[ROWS].add(h),
    "rows multiplied": lambda h: h.at[ROWS].mul(3.0),
    "rows subtracted": lambda h: h.at[ROWS[:2]].subtract(h[3:]),
    "rows, the larger": lambda h: h.at[ROWS].max(h[::-1]),
    "segment_sum": lambda h: jax.ops.segment_sum(h, ROWS, 5),
    "batch of scatters": scattered,
    "part by input": lambda h: lax.dynamic_slice_in_dim(h, jnp.argmax(X[0]), 3, 0),
    "written by input": lambda h: lax.dynamic_update_slice(h, h[:2], (jnp.argmax(X[0]), 0)),
    "associative scan": scanned_in_parallel,
    "Fourier transform": lambda h: jnp.fft.fft(h, axis=0).real,
    "sorted rows": lambda h: jnp.take_along_axis(h, jnp.argsort(X[:, :1], 0), 0),
}
NUMBERED = {
    "sines": lambda h: h * jnp.sin(jnp.arange(8.0)),
    "linspace": lambda h: h * jnp.linspace(1.0, 2.0, 8),
    "one_hot": lambda h: h * (1 + jax.nn.one_hot(ROWS, 8)),
    "the first, as many as an input says": lambda h: jnp.where(
        jnp.arange(8.0) < X[0, 0] + 5, h, 0.0
    ),
    "triangle": lambda h: h @ jnp.tri(8),
    "sorted table": lambda h: h * jnp.sort(jnp.cos(jnp.arange(8.0))),
    "summed table": lambda h: h * jnp.cumsum(jnp.linspace(0.1, 1.0, 8)),
    "interleaved table": lambda h: h * jnp.stack([jnp.arange(1.0, 5.0), jnp.ones(4)], 1).reshape(8),
    "written table": lambda h: h * jnp.ones(8).at[::2].set(jnp.arange(1.0, 5.0)),
    "permutation": lambda h: h[:, np.array([3, 1, 0, 2, 7, 5, 6, 4])],
    "repeated by places": lambda h: jnp.take(h, np.repeat(np.arange(8), 2), 1)[:, 1::2],
    "tile of one": lambda h: h * jnp.tile(jnp.arange(5.0)[:, None], (1, 8)),
}
GONE = {
    **{name: dense(operation) for name, operation in (AT_PLACES | NUMBERED).items()},
    "custom_vjp": dense(straight_through),
    "einsum over channels": lambda w, h: jnp.einsum("nc,cde,ne->nd", h, w["t"], h),
    "fast LayerNorm": normed(fast_layer_norm),
    "roll": dense(lambda h: jnp.roll(h, 3, axis=1)),
    "flip": dense(lambda h: jnp.flip(h, 1)),
    "repeat": lambda w, h: jnp.repeat(h, 2, axis=1) @ w["b16"],
    "tile": lambda w, h: jnp.tile(h, (1, 2)) @ w["b16"],
    "interleaving": lambda w, h: jnp.stack([h, jnp.tanh(h)], 2).reshape(5, 16) @ w["b16"],
    "padding": lambda w, h: jnp.pad(h, ((0, 0), (3, 5))) @ w["b16"],
    "sum over channels": dense(lambda h: h * h.sum(axis=1, keepdims=True)),
    "length over channels": dense(lambda h: h / jnp.sqrt(jnp.sum(h * h, 1, keepdims=True) + 1.0)),
    "constant by channel": dense(lambda h: h * np.arange(1, 9, dtype=np.float32)),
    "remat": dense(jax.checkpoint(lambda h: jnp.sin(jnp.sin(h)))),
    "vmap": dense(jax.vmap(lambda row: jnp.tanh(row))),
    "cond": dense(lambda h: lax.cond(X[0, 0] > 0, jnp.sin, jnp.tanh, h)),
    "pairs": dense(lambda h: h * (h[:, :, None] * h[:, None, :]).sum((1, 2))[:, None]),
}
"""All eight channels come apart, and masked ones are found to be dead."""

IN_PARTS = {
    "split, then mixed": (4, (2, 3, 6, 7), dense(split_and_mixed)),
    "softmax in parts": (2, (), dense(lambda h: jax.nn.softmax(h.reshape(5, 2, 4)).reshape(5, 8))),
    "GroupNorm": (2, (4, 5, 6, 7), normed(group_norm)),
    "gated halves": (4, (1, 2, 5, 6), lambda w, h: (h[:, :4] * jnp.tanh(h[:, 4:])) @ w["b4"]),
    "roll and add": (1, (0, 1, 2), dense(lambda h: h + jnp.roll(h, 1, axis=1))),
    "split, joined": (4, (2, 3, 6, 7), concatenated),
}
"""Units, channels to mask, all of which must be found dead if units allow."""

ALIVE = {
    "two-pass LayerNorm": normed(two_pass_layer_norm),
    "variance over channels": dense(lambda h: h * jnp.var(h, axis=1, keepdims=True)),
    "power of zero": dense(lambda h: h**0),
    "softplus": dense(jax.nn.softplus),
    "added constant": dense(lambda h: h + 1.0),
    "divided by its length": dense(lambda h: h + h / jnp.sqrt(jnp.sum(h * h, 0) + 1e-9) + 1.0),
    "gradient by channels": normed(with_gradient),
    "row set to one": dense(lambda h: h.at[1].set(1.0)),
    "function of a row": dense(lambda h: h.at[1].apply(jnp.cos)),
    "rows or one": dense(lambda h: h.at[ROWS + 2].get(mode="fill", fill_value=1)),
    "padding of a pooling": dense(
        lambda h: jnp.exp(lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), ((2, 0), (0, 0))))
    ),
    "counted zeros": dense(lambda h: jnp.where(h == 0.0, 1.0, h)),
}
"""They come apart, but masked ones still do something."""


def test_unread_channels_are_dead_though_not_zero():
    case = masking.case(lambda w, h: h[:, ::2] @ w["b4"])
    assert [group.members["a", 1].ravel().tolist() for group in case.groups] == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
    ]
    small = compaction.compact(case.function, case.variables, X)
    assert small.cut["a", 1].tolist() == [3, 5, 7]  # one of each group stays
    assert ("b4", 0) not in small.cut
    given = case.function(case.variables, X)
    assert masking.difference(given, small.function(small.variables, X)) <= 1e-6


@pytest.mark.parametrize("name", GONE)
def test_channels_that_come_apart(name):
    case = masking.case(GONE[name])
    assert case.sizes == (8, 0)
    difference, dead = masking.masked_and_gone(case, (1, 2, 5))
    assert difference <= 1e-5 and dead == {1, 2, 5}


@pytest.mark.parametrize("name", IN_PARTS)
def test_channels_that_come_apart_in_units_of_several(name):
    units, masked, operation = IN_PARTS[name]
    case = masking.case(operation)
    assert case.sizes == (units, 0)
    difference, dead = masking.masked_and_gone(case, masked)
    assert difference <= 1e-5 and dead == set(masked if units > 1 else ())


@pytest.mark.parametrize("name", ALIVE)
def test_masked_channels_that_still_do_something(name):
    case = masking.case(ALIVE[name])
    assert case.sizes == (8, 0)
    difference, dead = masking.masked_and_gone(case, (1, 2, 5))
    assert difference <= 1e-5 and not dead


@pytest.mark.parametrize("name", [*GONE, *ALIVE])
def test_any_channels_can_be_taken_out_when_asked(name):
    case = masking.case((GONE | ALIVE)[name])
    cut = masking.cut_of(case, (0, 3, 4, 7))
    small = compaction.compact(case.function, case.variables, X, removed=cut)
    assert small.variables["a"].shape == (6, 4)
    assert jax.eval_shape(small.function, small.variables, X) == jax.eval_shape(
        case.function, case.variables, X
    )
