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


def pooled_over_channels(h):
    return lax.reduce_window(h, 0.0, lax.add, (1, 3), (1, 1), "SAME")


def of_one(h, padding, **options):
    """Sums over windows of one number."""
    return lax.reduce_window(h, 0.0, lax.add, (1, 1), (1, 1), padding, **options)


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
    "gather by channel out of range": (
        "looked up along it",
        dense(lambda h: h.at[:, ORDER + 1].get(mode="fill", fill_value=0)),
    ),
    "take by input": (
        "looked up along it|argmax is taken over it",
        lambda w, h: jnp.take(h, jnp.argmax(h[0, :2], keepdims=True), axis=1) * w["b4"][0],
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
    "dynamic_slice": (
        "whose place is computed",
        lambda w, h: lax.dynamic_slice_in_dim(h, jnp.argmax(X[0]), 4, axis=1) @ w["b4"],
    ),
    "dynamic_update_slice": (
        "a part of it is written whose place is computed",
        dense(lambda h: lax.dynamic_update_slice(h, h[:, :2], (0, jnp.argmax(X[0])))),
    ),
    "scatter": (
        "written along it whose places are computed",
        dense(lambda h: h.at[:, ORDER[:2]].set(0.0)),
    ),
    "fft": ("a Fourier transform runs along it", dense(lambda h: jnp.fft.fft(h, axis=1).real)),
    "linear solve": (
        "which is not understood",
        lambda w, h: jnp.linalg.solve(h.T @ h + 9.0 * np.eye(8, dtype=np.float32), w["b"]),
    ),
    "convolution over channels": (
        "the window of a convolution moves along it",
        convolved_over_channels,
    ),
    "pooling over channels": (
        "the window of a pooling moves along it",
        dense(pooled_over_channels),
    ),
    "pooling that pads channels": (
        "the window of a pooling moves along it",
        dense(lambda h: of_one(h, ((0, 0), (1, 0)))[:, 1:]),
    ),
    "pooling that spreads channels": (
        "the window of a pooling moves along it",
        dense(lambda h: of_one(h, ((0, 0), (0, 0)), base_dilation=(1, 2))[:, ::2]),
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


SINGLED_OUT = {
    "squeezed": lambda h: h * h[:, 0][:, None],
    "sliced": lambda h: h * h[:, :1],
    "looked up": lambda h: h * h[:, np.array([0, 1])][:, :1],
}


@pytest.mark.parametrize("name", SINGLED_OUT)
def test_a_channel_that_is_singled_out_stays_and_the_others_go(name):
    case = masking.case(dense(SINGLED_OUT[name]))
    assert case.sizes == (7, 1)
    (kept,) = (group for group in case.groups if group.fixed)
    assert kept.members["a", 1].tolist() == [[0]]
    assert kept.fixed == "a single one of them is picked out"
    difference, dead = masking.masked_and_gone(case, (1, 2, 5))
    assert difference <= 1e-5 and dead == {1, 2, 5}
