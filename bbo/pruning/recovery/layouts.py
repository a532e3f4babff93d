"""Primitives that rearrange an array or copy it, followed by what each place holds."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bbo.compaction.tracing.arrays import Step


def _broadcast(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    shape = np.ones(len(params["shape"]), int)
    shape[list(params["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _same(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    del params
    return x


LAYOUTS: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": _same,
    "copy": _same,
    "reshape": lambda x, params: x.reshape(params["new_sizes"]),
    "rev": lambda x, params: np.flip(x, params["dimensions"]),
    "sharding_constraint": _same,
    "squeeze": lambda x, params: x.squeeze(tuple(params["dimensions"])),
    "transpose": lambda x, params: x.transpose(params["permutation"]),
}
"""By the name of the primitive: what it makes of its first operand."""


def is_layout(step: Step) -> bool:
    """Whether a step does nothing but rearrange one array, copy it or change its dtype."""
    return step.primitive.name in LAYOUTS and len(step.operands) == 1


def moved(steps: Iterable[Step], x: np.ndarray) -> np.ndarray:
    """What an array becomes in steps that rearrange; the dtype stays."""
    for step in steps:
        x = LAYOUTS[step.primitive.name](x, step.params)
    return x


def lean(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays broadcast to one shape, without the axes along which all of them are constant.

    >>> [x.shape for x in lean(np.broadcast_to(np.arange(3), (4, 3)), np.zeros((1, 1)))]
    [(1, 3), (1, 3)]
    """
    wide = np.broadcast_arrays(*arrays)
    index = tuple(
        slice(1) if all(x.strides[axis] == 0 for x in wide) else slice(None)
        for axis in range(wide[0].ndim)
    )
    return [x[index] for x in wide]


def summed(x: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """The sum along axes; those along which a view is constant take no time.

    >>> summed(np.broadcast_to(np.arange(3), (4, 3)), (0,)).tolist()
    [0, 4, 8]
    """
    for axis in sorted((int(axis) for axis in axes), reverse=True):
        repeated = x.strides[axis] == 0 and x.shape[axis] > 0
        x = x.take(0, axis) * x.shape[axis] if repeated else x.sum(axis)
    return x
