"""Primitives with sizes in their parameters, done at the sizes that are left."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from bbo.compaction import familiar
from bbo.compaction.sizes import Sizes
from bbo.compaction.tracing.arrays import Step, bind
from bbo.compaction.tracing.flow.draws import DRAWN
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.types import Array


def taken(x: Array, index: np.ndarray, axis: int) -> Array:
    """Positions along an axis; a slice if they are evenly spaced."""
    steps = np.diff(index)
    if len(index) == x.shape[axis] and (steps == 1).all():
        return x
    if len(index) and (steps == steps[:1]).all() and (steps > 0).all():
        stride = int(steps[0]) if len(steps) else 1
        return lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, stride, axis)
    return jnp.take(x, index, axis=axis, mode="clip")


def _broadcast_in_dim(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    dims = step.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(operands[0], sizes.shape(step.results[0]), dims)


def _reshape(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    return lax.reshape(operands[0], sizes.shape(step.results[0]), step.params.get("dimensions"))


def _iota(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Positions that are left keep their numbers."""
    del operands
    (result,), axis, dtype = step.results, step.params["dimension"], step.params["dtype"]
    kept = sizes.kept(result, axis)
    if kept.all():
        return lax.broadcasted_iota(dtype, sizes.shape(result), axis)
    numbers = jnp.asarray(np.flatnonzero(kept), dtype)
    return lax.broadcast_in_dim(numbers, sizes.shape(result), (axis,))


def _drawn(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Random bits: all, and of these what is left. The compiler makes no more than is read."""
    x = step.primitive.bind(*operands, **step.params)
    for axis in range(operands[0].ndim, x.ndim):
        x = taken(x, np.flatnonzero(sizes.kept(step.results[0], axis)), axis)
    return x


def _tile(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """What is repeated as a whole as often as before, and single positions as needed."""
    repeats = tuple(
        left if size == 1 else count
        for left, size, count in zip(
            sizes.shape(step.results[0]),
            shape_of(sizes.found.traced.arrays.avals[step.operands[0]]),
            step.params["reps"],
            strict=True,
        )
    )
    return step.primitive.bind(*operands, **step.params | {"reps": repeats})


def _slice(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Slices: as before, but along axes of which something is removed."""
    x, ref, params = operands[0], step.operands[0], step.params
    indices = {tie.operand.axis: tie.index[:, 0] for tie in step.flow.ties}
    strides = params["strides"] or (1,) * x.ndim
    for axis, (start, limit, stride) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        kept = sizes.kept(ref, axis)
        if kept.all():
            x = lax.slice_in_dim(x, start, limit, stride, axis)
        else:
            wanted = sizes.kept(step.results[0], axis)
            x = taken(x, (np.cumsum(kept) - 1)[indices[axis][wanted]], axis)
    return x


def _split(sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    axis = step.params["axis"]
    parts = tuple(sizes.shape(ref)[axis] for ref in step.results)
    return list(lax.split(operands[0], parts, axis))


def _pad(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Axes of which nothing is removed as before; on others, positions or the padding value."""
    x, value = operands
    config = []
    for tie, padding in zip(step.flow.ties, step.params["padding_config"], strict=True):
        axis = tie.operand.axis
        kept, wanted = sizes.kept(step.operands[0], axis), sizes.kept(step.results[0], axis)
        if kept.all() and wanted.all():
            config.append(padding)
            continue
        config.append((0, 0, 0))
        # Where there is none, -1, the padding that comes behind.
        index = np.append(np.cumsum(kept) - 1, kept.sum())[tie.index[wanted, 0]]
        behind = [(0, int(a == axis), 0) for a in range(x.ndim)]
        x = taken(lax.pad(x, value, behind), index, axis)
    return lax.pad(x, value, config)


def _max_pool(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    del sizes
    pooled = familiar.max_pool(operands[0], step.params)
    return bind(step, operands) if pooled is None else pooled


def _convolution(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    params = dict(step.params)
    if params["feature_group_count"] != 1:
        numbers = params["dimension_numbers"]
        inputs = operands[0].shape[numbers.lhs_spec[1]]
        params["feature_group_count"] = inputs // operands[1].shape[numbers.rhs_spec[1]]
    return step.primitive.bind(*operands, **params)


def _dynamic_slice(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Axes that are taken whole are as long as they are now."""
    full = shape_of(sizes.found.traced.arrays.avals[step.operands[0]])
    now = operands[0].shape
    slice_sizes = tuple(
        new if size == old else size
        for size, old, new in zip(step.params["slice_sizes"], full, now, strict=True)
    )
    return step.primitive.bind(*operands, **step.params | {"slice_sizes": slice_sizes})


def _gather(sizes: Sizes, step: Step, operands: list[Any]) -> Array:
    """Known places along an axis of which something is removed are those that are left of it."""
    x, places = operands
    for axis in step.params["dimension_numbers"].start_index_map:
        kept = sizes.kept(step.operands[0], axis)
        if not kept.all():  # then it is the only one
            left = jnp.asarray(np.cumsum(kept) - 1, places.dtype)
            places = jnp.take(left, places, mode="clip")
    return _dynamic_slice(sizes, step, [x, places])


RESIZED: dict[str, Callable[[Sizes, Step, list[Any]], Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "iota": _iota,
    "tile": _tile,
    **dict.fromkeys(DRAWN, _drawn),
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
}
"""What is done instead of such a primitive; its results as a list where it has several."""
