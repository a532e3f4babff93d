"""Where the arrays of a program are zero for all inputs, told from its parameters alone."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbo import flow, trees
from bbo.channels import Channels
from bbo.tracing import Arrays, Program, Step, shape_of
from bbo.types import PyTree

Zeros = tuple[np.ndarray, ...]
"""For each axis, bool [positions]: whether all that has this position is zero."""

PRODUCTS = frozenset(("mul", "and", "dot_general", "conv_general_dilated"))
"""Zero where any factor is."""
STRUCTURAL = frozenset(
    "broadcast_in_dim transpose squeeze reshape concatenate split stack slice tile rev "
    "dynamic_slice reduce_sum reduce_max reduce_min reduce_window_sum reduce_window_max "
    "reduce_window_min cumsum cummax cummin cumprod copy copy_p optimization_barrier".split()
)
"""Zero where all that goes in is, at the positions of which it says that they go there."""
VALUE_KEPT = frozenset("broadcast_in_dim reshape squeeze convert_element_type copy".split())
"""A single number stays that number."""


def summed_channels(found: Channels, variables: PyTree) -> np.ndarray:
    """Of each channel: whether something is summed over it that may not be zero.

    If not, nothing changes when it is removed.

    Args:
      found: the channels of a function.
      variables: its parameters.

    Returns:
      bool, by the labels of ``found``.
    """
    leaves = trees.flatten(variables).values()
    zeros = {ref: _zeros_of(leaf) for ref, leaf in enumerate(leaves)}
    summed = np.zeros(int(found.labels.max(initial=0)) + 1, bool)
    _follow(found, found.traced.program, zeros, summed)
    return summed


def _zeros_of(value: Any) -> Zeros:
    is_zero = np.asarray(value) == 0
    axes = range(is_zero.ndim)
    return tuple(is_zero.all(axis=tuple(a for a in axes if a != axis)) for axis in axes)


def _nowhere(aval: Any) -> Zeros:
    return tuple(np.zeros(flow.length(size), bool) for size in shape_of(aval))


def _follow(found: Channels, program: Program, zeros: dict[int, Zeros], summed: np.ndarray) -> None:
    """Follows zeros through a program, and marks channels over which something else is summed."""
    arrays = found.traced.arrays
    numbers = {ref: value for ref, value in arrays.constants.items() if not np.shape(value)}

    def of(ref: int) -> Zeros:
        if ref not in zeros:
            known = ref in arrays.constants
            zeros[ref] = _zeros_of(arrays.constants[ref]) if known else _nowhere(arrays.avals[ref])
        return zeros[ref]

    for step in program.steps:
        for places in step.flow.sums:
            factors = [(step.operands[array], axis) for array, axis in places]
            is_zero = np.logical_or.reduce([of(ref)[axis] for ref, axis in factors])
            nodes = arrays.nodes[factors[0][0]][factors[0][1]]
            summed[found.labels[nodes[~is_zero]]] = True
        for inner in step.inner:  # nothing is known of what goes around in a loop
            _follow(found, inner, {}, summed)
        if step.primitive.name in VALUE_KEPT and step.operands[0] in numbers:
            numbers[step.results[0]] = numbers[step.operands[0]]
        given = [of(ref) for ref in step.operands]
        known = [numbers.get(ref) for ref in step.operands]
        for number, ref in enumerate(step.results):
            zeros[ref] = _result(arrays, step, number, given, known)


def _result(
    arrays: Arrays, step: Step, number: int, given: Sequence[Zeros], known: Sequence[Any]
) -> Zeros:
    """Where a result is zero."""
    aval = arrays.avals[step.results[number]]
    if step.inner or not step.flow.ties:
        return _nowhere(aval)
    found = []
    for axis, size in enumerate(shape_of(aval)):
        parts: dict[int, np.ndarray] = {}
        is_new = np.ones(flow.length(size), bool)
        for result, operand, index in step.flow.ties:
            if result != (number, axis):
                continue
            is_new &= (index < 0).all(axis=1)
            source = given[operand.array][operand.axis]
            parts[operand.array] = np.all((index < 0) | source[index], axis=1)
        found.append(_along(arrays, step, parts, is_new, known))
    return tuple(found)


def _along(
    arrays: Arrays,
    step: Step,
    parts: dict[int, np.ndarray],
    is_new: np.ndarray,
    known: Sequence[Any],
) -> np.ndarray:
    """Where a result is zero along one axis, from where its operands are.

    Args:
      arrays: of the program.
      step: the primitive.
      parts: bool [positions] for each operand that has the axis.
      is_new: whether a position comes from no operand.
      known: the operands that are one number.
    """
    name, nowhere = step.primitive.name, np.zeros(len(is_new), bool)
    if not parts:
        return nowhere
    if name in PRODUCTS:
        return np.logical_or.reduce(list(parts.values()))
    every = np.logical_and.reduce(list(parts.values()))
    if name == "div":
        return parts.get(0, nowhere)
    if name == "pad":
        return every if known[1] is not None and known[1] == 0 else nowhere
    if name in STRUCTURAL:
        return every & ~is_new
    if name not in flow.ELEMENTWISE:
        return nowhere
    values = [0 if operand in parts else known[operand] for operand in range(len(known))]
    return every if _is_zero_at(arrays, step, values) else nowhere


def _is_zero_at(arrays: Arrays, step: Step, values: Sequence[Any]) -> bool:
    """Whether an elementwise primitive gives zero for these numbers; None is one not known."""
    if step.primitive.name == "select_n":
        return all(value is not None and value == 0 for value in values[1:])
    if any(value is None for value in values):
        return False
    dtypes = [arrays.avals[ref].dtype for ref in step.operands]
    with jax.ensure_compile_time_eval():
        numbers = map(jnp.asarray, values, dtypes)
        return bool(step.primitive.bind(*numbers, **step.params) == 0)
