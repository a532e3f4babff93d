"""Uses of channels that cannot be removed: a reason to keep them, and never another result.

Each case is a function of weights and of ``h = x @ a``, [5, 8].
"""

import re

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from jax import lax
from masking import X, dense

ORDER = np.array([3, 1, 0, 2, 7, 5, 6, 4])


def loop_over_channels(h):
    return lax.fori_loop(0, 8, lambda i, total: total + h[:, i] ** 2, jnp.zeros(5))


def pixel_shuffle(h):
    return h.reshape(5, 1, 1, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(5, 2, 2, 2)


def transposed(w, h):
    y = lax.conv_transpose(h.reshape(5, 2, 2, 2), w["kernel"], (2, 2), "SAME")
    return y.reshape(5, 4, 4, 2).mean(axis=(1, 2))


def pooled_over_channels(h):
    return lax.reduce_window(h, 0.0, lax.add, (1, 3), (1, 1), "SAME")


def convolved_over_channels(w, h):
    return lax.conv(h[:, None], w["wide"].transpose(1, 2, 0), (1,), "SAME")[:, 0] @ w["b"]


FIXED = {
    "fori_loop over channels": (
        "a part of it is taken whose place is computed|looked up along it",
        lambda w, h: loop_over_channels(h),
    ),
    "scan over channels": (
        "a loop runs along it",
        lambda w, h: lax.scan(lambda s, c: (s + c**2, None), jnp.zeros(5), h.T)[0],
    ),
    "gather by channel": ("looked up along it", dense(lambda h: h[:, ORDER])),
    "take by input": (
        "looked up along it",
        dense(lambda h: jnp.take(h, (X[0] > 0).astype(jnp.int32), axis=1)[:, :1] * h),
    ),
    "take_along_axis": (
        "looked up along it|it is sorted",
        dense(lambda h: jnp.take_along_axis(h, jnp.argsort(h, axis=1), axis=1)),
    ),
    "top_k": ("the largest along it are taken", lambda w, h: lax.top_k(h, 4)[0] @ w["b4"]),
    "sort": ("it is sorted", dense(lambda h: jnp.sort(h, axis=1))),
    "median": ("reduce_or is taken over it|it is sorted", lambda w, h: jnp.median(h, axis=1)),
    "cumsum": ("cumsum runs along it", dense(lambda h: jnp.cumsum(h, axis=1))),
    "argmax": ("argmax is taken over it", lambda w, h: w["b"][jnp.argmax(h, axis=1)]),
    "softmax": ("reduce_max is taken over it", dense(lambda h: jax.nn.softmax(h, axis=1))),
    "logsumexp": ("reduce_max", lambda w, h: jax.nn.logsumexp(h, axis=1)),
    "max": ("reduce_max is taken over it", lambda w, h: h.max(axis=1)),
    "product": ("reduce_prod is taken over it", lambda w, h: h.prod(axis=1)),
    "iota": ("numbered", dense(lambda h: h * jnp.sin(jnp.arange(8.0)))),
    "one_hot": ("numbered", dense(lambda h: h * jax.nn.one_hot(jnp.array([0, 2, 4, 6, 7]), 8))),
    "dynamic_slice": (
        "whose place is computed",
        lambda w, h: lax.dynamic_slice_in_dim(h, jnp.argmax(X[0]), 4, axis=1) @ w["b4"],
    ),
    "dynamic_update_slice": (
        "a part of it is written whose place is computed",
        dense(lambda h: lax.dynamic_update_slice(h, h[:, :2], (0, jnp.argmax(X[0])))),
    ),
    "scatter": ("passes through scatter", dense(lambda h: h.at[:, ORDER[:2]].set(0.0))),
    "fft": ("passes through fft", dense(lambda h: jnp.fft.fft(h, axis=1).real)),
    "linear solve": (
        "which is not understood",
        lambda w, h: jnp.linalg.solve(h.T @ h + 9.0 * np.eye(8, dtype=np.float32), w["b"]),
    ),
    "pixel shuffle": (
        "the window of a convolution moves along it",
        lambda w, h: lax.conv(
            pixel_shuffle(h).transpose(0, 3, 1, 2), w["kernel"].T, (1, 1), "SAME"
        ),
    ),
    "transposed convolution": ("convolution|a part of channels", transposed),
    "convolution over channels": (
        "the window of a convolution moves along it",
        convolved_over_channels,
    ),
    "pooling over channels": (
        "the window of a pooling moves along it",
        dense(pooled_over_channels),
    ),
    "all pairs": (
        "mixes axes",
        lambda w, h: (h[:, :, None] * h[:, None, :]).reshape(5, 64) @ jnp.tile(w["b"], (8, 1)),
    ),
    "unflattened": ("was reshaped|mixes|split", lambda w, h: h.reshape(20, 2).sum(1)),
    "callback": (
        "pure_callback",
        dense(lambda h: jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(h.shape, h.dtype), h)),
    ),
}
"""They cannot be removed, for a reason."""


@pytest.mark.parametrize("name", FIXED)
def test_channels_that_are_fixed(name):
    reason, operation = FIXED[name]
    case = masking.case(operation)
    assert case.sizes[0] == 0
    for group in case.groups:
        assert re.search(reason, group.fixed), group.fixed
    difference, dead = masking.masked_and_gone(case, (1, 2, 5))
    assert difference <= 1e-5 and not dead


def test_a_channel_that_is_singled_out_stays_and_the_others_go():
    case = masking.case(dense(lambda h: h * h[:, 0][:, None]))
    assert case.sizes == (7, 1)
    (kept,) = (group for group in case.groups if group.fixed)
    assert kept.members["a", 1].tolist() == [[0]]
    assert kept.fixed == "a single one of them is picked out"
    difference, dead = masking.masked_and_gone(case, (1, 2, 5))
    assert difference <= 1e-5 and dead == {1, 2, 5}
