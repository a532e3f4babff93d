"""Targeting: which units of a kernel, or channel maps, are the weakest."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax

from bbo.settings.catalog import UNITS
from bbo.trees import wide
from bbo.types import Array, UsageError, require, require_one_of


def _filter_norm(w: Array) -> Array:
    """L2 norm of each filter, with every axis kept: ``[1, ..., out]``."""
    return jnp.sqrt(jnp.sum(jnp.square(w), axis=range(w.ndim - 1), keepdims=True))


def _kernel_norm(w: Array) -> Array:
    """L2 norm of each 2-D kernel, with every axis kept: ``[1, ..., in, out]``."""
    # A sum over the first axes is a slow reduction on the CPU; written out it is one fused pass.
    places = jnp.square(w).reshape(-1, *w.shape[-2:])
    total = functools.reduce(operator.add, places)
    return jnp.sqrt(total).reshape((1,) * (w.ndim - 2) + w.shape[-2:])


def weakest(w: Array, fraction: float | Array, unit: str = "kernel") -> Array:
    """Mask of the weakest units of a kernel by L2 norm: those that targeting perturbs.

    True is strictly below the value at rank ``int(n * fraction)``, as in the authors' program, so
    that units tied with that value are not targeted, and of a single unit none is (the 2-D
    kernels of a first layer on grey images).

    Args:
      w: kernel ``[..., in, out]``.
      fraction: in (0, 1]; 1 targets everything. A traced one is in [0, 1).
      unit: ``kernel``: 2-D kernels compete within their filter (single weights in a dense layer);
        ``weight``: single weights within their filter; ``filter``: filters within the layer.

    Returns:
      bool mask that broadcasts to ``w``; no gradient flows through it.

    Raises:
      UsageError: an argument out of range, or no filters in ``w`` to rank, or to rank kernels or
        weights in.
    """
    require_one_of(UNITS, "target_unit", unit)
    if not isinstance(fraction, jax.Array):
        require(0 < fraction <= 1, "target_fraction", fraction, "in (0, 1]")
        if fraction == 1:
            return jnp.ones((1,) * w.ndim, bool)
    if w.ndim < (1 if unit == "filter" else 2):
        raise UsageError(
            f"noise_on selects an array of shape {w.shape}, in which no weakest {unit} can be "
            "targeted; select kernels, or set target_fraction to 1"
        )
    w = wide(jax.lax.stop_gradient(w))
    if unit == "filter":
        return _below_rank(_filter_norm(w), fraction, axis=-1)
    if unit == "kernel":
        return _below_rank(_kernel_norm(w), fraction, axis=-2)
    return _below_rank(jnp.abs(w).reshape(-1, w.shape[-1]), fraction, axis=0).reshape(w.shape)


def weakest_maps(x: Array, fraction: float) -> Array:
    """The same for one example's activations ``[..., channels]``: channels ranked by L2 norm."""
    return weakest(x, fraction, unit="filter")


def _below_rank(norms: Array, fraction: float | Array, axis: int) -> Array:
    rank = norms.shape[axis] * fraction
    rank = rank.astype(jnp.int32) if isinstance(rank, jax.Array) else int(rank)
    return norms < smallest(norms, rank, axis=axis)


SORTED = 64
"""So many numbers at most are sorted."""


def smallest(values: Array, rank: int | Array, *, axis: int) -> Array:
    """The value that ``jnp.sort(values, axis)`` has at ``rank``; the axis is kept, of length 1.

    Floats that are not negative are ordered as their bits are, read as whole numbers. Whether a bit
    of the value is set is told by how many numbers are smaller than with it: a pass over the
    numbers for each bit, along any axis.

    Args:
      values: float32 or float64, not negative, without NaN.
      rank: 0 for the least; may be traced.
      axis: along which.

    Raises:
      UsageError: there are not so many values.

    >>> smallest(jnp.array([3.0, 0.0, 2.0, 2.0]), 2, axis=0)
    Array([2.], dtype=float32)
    """
    count = values.shape[axis]
    if not isinstance(rank, jax.Array):
        require(0 <= rank < count, "rank", rank, f"in [0, {count})")
    if count <= SORTED:
        return lax.dynamic_slice_in_dim(jnp.sort(values, axis=axis), rank, 1, axis=axis)
    width = jnp.finfo(values.dtype).bits
    whole = jnp.dtype(f"uint{width}")
    bits = lax.bitcast_convert_type(jnp.abs(values), whole)  # there may be a minus zero

    def narrowed(step: Array, found: Array) -> Array:
        # The sign is 0: the first to be found is the bit after it.
        guess = found | (jnp.ones((), whole) << (width - 2 - step).astype(whole))
        below = jnp.sum(bits < guess, axis=axis, keepdims=True, dtype=jnp.int32)
        return jnp.where(below <= rank, guess, found)

    start = jnp.zeros_like(lax.slice_in_dim(bits, 0, 1, axis=axis))
    found = lax.fori_loop(0, width - 1, narrowed, start)
    return lax.bitcast_convert_type(found, values.dtype)
