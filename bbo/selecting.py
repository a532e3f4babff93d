"""The value at a rank, without sorting: by bisection on the bits of the numbers."""

import jax.numpy as jnp
from jax import lax

from bbo.types import Array, require

SORTED = 64
"""So many numbers at most are sorted."""


def smallest(values: Array, rank: int, *, axis: int) -> Array:
    """The value that ``jnp.sort(values, axis)`` has at ``rank``; the axis is kept, of length 1.

    Floats that are not negative are ordered as their bits are, read as whole numbers. Whether a bit
    of the value is set is told by how many numbers are smaller than with it: a pass over the
    numbers for each bit, along any axis.

    Args:
      values: float32 or float64, not negative, without NaN.
      rank: 0 for the least.
      axis: along which.

    Raises:
      UsageError: there are not so many values.

    >>> smallest(jnp.array([3.0, 0.0, 2.0, 2.0]), 2, axis=0)
    Array([2.], dtype=float32)
    """
    count = values.shape[axis]
    require(0 <= rank < count, "rank", rank, f"in [0, {count})")
    if count <= SORTED:
        return lax.slice_in_dim(jnp.sort(values, axis=axis), rank, rank + 1, axis=axis)
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
