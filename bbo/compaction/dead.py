"""Where the arrays of a program are zero for all inputs, told from its parameters alone.

Inputs and what is computed from them are taken as finite; parameters that are not, and what is
computed from them, are not taken for zero where they are multiplied by zero, see ``finite``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.finite import Finite, finite, product_is_zero, risk_of
from bbo.compaction.tracing.arrays import Arrays, Program, Step
from bbo.compaction.tracing.custom import plain_steps
from bbo.compaction.tracing.flow.positions import Place, length, shape_of
from bbo.compaction.tracing.flow.rules import ELEMENTWISE
from bbo.types import PyTree

Zeros = tuple[np.ndarray, ...]
"""For each axis, bool [positions]: whether all that has this position is zero."""

PRODUCTS = frozenset(("mul", "and", "dot_general", "conv_general_dilated"))
"""Zero where any factor is."""
STRUCTURAL = frozenset(
    "broadcast_in_dim transpose squeeze reshape concatenate split stack slice tile rev "
    "dynamic_slice reduce_sum reduce_max reduce_min reduce_window_sum reduce_window_max "
    "reduce_window_min psum cumsum cummax cummin cumprod copy copy_p optimization_barrier".split()
)
"""Zero where all that goes in is, at the positions of which it says that they go there."""
VALUE_KEPT = frozenset("broadcast_in_dim reshape squeeze convert_element_type copy".split())
"""A single number stays that number."""


class Followed(NamedTuple):
    """What is known of a program with these parameters, whatever its inputs are."""

    summed: np.ndarray
    """bool, by label: whether something is summed over a channel that may not be zero. If not,
    nothing changes when it is removed."""
    zeros: dict[int, Zeros]
    """Where each array is zero."""


def follow(found: Channels, variables: PyTree) -> Followed:
    """Follows zeros through a function.

    Args:
      found: the channels of the function.
      variables: its concrete parameters.
    """
    leaves = trees.flatten(variables).values()
    zeros = {ref: _zeros_of(leaf) for ref, leaf in enumerate(leaves)}
    followed = Followed(np.zeros(int(found.labels.max(initial=0)) + 1, bool), {})
    _follow(found, finite(found, variables), found.traced.program, zeros, followed)
    return followed


def _zeros_of(value: Any) -> Zeros:
    if _is_key(value):
        return _nowhere(value)
    is_zero = np.asarray(value) == 0
    axes = range(is_zero.ndim)
    return tuple(is_zero.all(axis=tuple(a for a in axes if a != axis)) for axis in axes)


def _is_key(value: Any) -> bool:
    """Whether it is a key of ``jax.random.key``, which is no number."""
    return jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.prng_key)


def _nowhere(aval: Any) -> Zeros:
    return tuple(np.zeros(length(size), bool) for size in shape_of(aval))


def _follow(
    found: Channels, facts: Finite, program: Program, zeros: dict[int, Zeros], followed: Followed
) -> list[Zeros]:
    """Follows zeros through a program, and marks channels over which something else is summed.

    Returns:
      Where the results of the program are zero.
    """
    arrays = found.traced.arrays
    numbers = {
        ref: np.asarray(value)
        for ref, value in arrays.constants.items()
        if not np.shape(value) and not _is_key(value)
    }

    def of(ref: int) -> Zeros:
        if ref not in zeros:
            known = ref in arrays.constants
            zeros[ref] = _zeros_of(arrays.constants[ref]) if known else _nowhere(arrays.avals[ref])
        return zeros[ref]

    for step in plain_steps(program.steps):
        for places in step.flow.sums:
            factors = [(step.operands[array], axis) for array, axis in places]
            is_zero = product_is_zero(
                [of(ref)[axis] for ref, axis in factors],
                [facts.of(ref).axes[axis] for ref, axis in factors],
            )
            nodes = arrays.nodes[factors[0][0]][factors[0][1]]
            followed.summed[found.labels[nodes[~is_zero]]] = True
        given = [of(ref) for ref in step.operands]
        facts.enter(step)
        leaving = [
            _follow(found, facts, inner, dict(zip(inner.inputs, entering, strict=False)), followed)
            for inner, entering in zip(step.inner, _entering(step, given), strict=True)
        ]
        if step.primitive.name in VALUE_KEPT and step.operands[0] in numbers:
            numbers[step.results[0]] = numbers[step.operands[0]]
        known = [numbers.get(ref) for ref in step.operands]
        for number, ref in enumerate(step.results):
            is_zero = ref in numbers and not numbers[ref]
            if step.primitive.name == "cond":
                branches = zip(*(branch[number] for branch in leaving), strict=True)
                zeros[ref] = tuple(map(np.logical_and.reduce, branches))
            else:
                result = _result(facts, step, number, given, known)
                zeros[ref] = tuple(map(np.ones_like, result)) if is_zero else result
        facts.follow(step, _singular(facts, step, given, known))
    results = [of(ref) for ref in program.outputs]
    followed.zeros.update(zeros)
    return results


def _entering(step: Step, given: Sequence[Zeros]) -> list[list[Zeros]]:
    """For the programs within a step: where their first inputs are zero.

    Nothing is known of what goes around in a loop.
    """
    params = step.params
    match step.primitive.name:
        case "cond":
            return [list(given[1:])] * len(step.inner)
        case "while":
            first = params["cond_nconsts"]
            return [list(given[:first]), list(given[first : first + params["body_nconsts"]])]
        case "scan":
            consts, carry = params["num_consts"], params["num_carry"]
            carried = [_nowhere(aval) for aval in params["jaxpr"].in_avals[consts:][:carry]]
            parts = [zeros[1:] for zeros in given[consts + carry :]]
            return [[*given[:consts], *carried, *parts]]
    return []


def _result(
    facts: Finite, step: Step, number: int, given: Sequence[Zeros], known: Sequence[Any]
) -> Zeros:
    """Where a result is zero."""
    arrays, ref = facts.arrays, step.results[number]
    if step.inner or not step.flow.ties:
        return _nowhere(arrays.avals[ref])
    return tuple(
        _along(facts, step, Place(number, axis), parts, is_new, known)
        for axis, (parts, is_new) in enumerate(_parts(arrays, step, number, given))
    )


def _parts(
    arrays: Arrays, step: Step, number: int, given: Sequence[Zeros]
) -> list[tuple[dict[int, np.ndarray], np.ndarray]]:
    """Along each axis of a result: where the operands that have it are zero, and what is new."""
    found = []
    for axis, size in enumerate(shape_of(arrays.avals[step.results[number]])):
        parts: dict[int, np.ndarray] = {}
        is_new = np.ones(length(size), bool)
        for result, operand, index in step.flow.ties:
            if result != (number, axis):
                continue
            is_new &= (index < 0).all(axis=1)
            source = given[operand.array][operand.axis]
            parts[operand.array] = np.all((index < 0) | source[index], axis=1)
        found.append((parts, is_new))
    return found


def _along(
    facts: Finite,
    step: Step,
    place: Place,
    parts: dict[int, np.ndarray],
    is_new: np.ndarray,
    known: Sequence[Any],
) -> np.ndarray:
    """Where a result is zero along one axis, from where its operands are.

    Args:
      facts: of the program.
      step: the primitive.
      place: the axis of a result.
      parts: bool [positions] for each operand that has the axis.
      is_new: whether a position comes from no operand.
      known: the operands that are one number.
    """
    name, nowhere = step.primitive.name, np.zeros(len(is_new), bool)
    if not parts:
        return nowhere
    if name in PRODUCTS:
        is_zero = [parts.get(operand, nowhere) for operand in range(len(step.operands))]
        return product_is_zero(is_zero, facts.at(step, place))
    if name == "div" and known[1] is None:
        # 0 / 0 is no zero.
        return parts.get(0, nowhere) & ~(
            facts.at(step, place)[1] | _divides_by_zero(facts, step, place, parts)
        )
    if name == "pad":
        pads_zeros = known[1] is not None and not known[1]
        return parts[0] if pads_zeros else nowhere
    if name in STRUCTURAL:
        return np.logical_and.reduce(list(parts.values())) & ~is_new
    if name not in ELEMENTWISE:
        return nowhere
    return _computed(facts.arrays, step, parts, known)


def _divides_by_zero(
    facts: Finite, step: Step, place: Place, parts: dict[int, np.ndarray]
) -> np.ndarray:
    """Where a divisor is zero: for all inputs, or in a value that does not depend on them."""
    found = parts.get(1, np.zeros(1, bool))
    value = facts.value(step.operands[1])
    if value is not None:
        marks = risk_of(value == 0)
        found = found | facts.at(step, place, {1: marks})[1]
    return found


def _singular(
    facts: Finite, step: Step, given: Sequence[Zeros], known: Sequence[Any]
) -> list[np.ndarray]:
    """Along each axis of the first result: where it is infinite since operands are zero."""
    name, found = step.primitive.name, []
    if step.inner or name not in ELEMENTWISE or name in PRODUCTS:
        return []
    for axis, (parts, _) in enumerate(_parts(facts.arrays, step, 0, given)):
        if name == "div" and known[1] is None:
            found.append(_divides_by_zero(facts, step, Place(0, axis), parts))
        else:
            is_zero, values = _all_zero(parts, known)
            if is_zero.any():
                is_zero &= not np.isfinite(_value_at(facts.arrays, step, values))
            found.append(is_zero)
    return found


def _all_zero(
    parts: dict[int, np.ndarray], known: Sequence[Any]
) -> tuple[np.ndarray, Sequence[Any]]:
    """Where all operands are zero or a known number, and these numbers."""
    values = [0 if i in parts and known[i] is None else known[i] for i in range(len(known))]
    found = np.full(len(next(iter(parts.values()))) if parts else 0, None not in values)
    for operand, is_zero in parts.items():
        if known[operand] is None:
            found &= is_zero
    return found, values


def _computed(
    arrays: Arrays, step: Step, parts: dict[int, np.ndarray], known: Sequence[Any]
) -> np.ndarray:
    """Where an elementwise primitive gives zero: where it does so for zeros and known numbers."""
    found, values = _all_zero(parts, known)
    found &= bool(found.any()) and not _value_at(arrays, step, values)
    if step.primitive.name == "select_n" and all(x is not None and not x for x in values[1:]):
        # Whichever is selected.
        unknown = {i: is_zero for i, is_zero in parts.items() if known[i] is None}
        found |= np.all([is_zero for i, is_zero in unknown.items() if i > 0], axis=0)
    return found


def _value_at(arrays: Arrays, step: Step, values: Sequence[Any]) -> np.ndarray:
    """What an elementwise primitive gives for these numbers."""
    dtypes = [arrays.avals[ref].dtype for ref in step.operands]
    with jax.ensure_compile_time_eval():
        numbers = map(jnp.asarray, values, dtypes)
        return np.asarray(step.primitive.bind(*numbers, **step.params))
