"""Where an array is zero for all inputs: of what is known, and of what a primitive makes of it."""

import functools
import itertools
from collections.abc import Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbo.compaction.finite import Finite, as_number, product_is_zero, risk_of
from bbo.compaction.tracing.arrays import Arrays, Step
from bbo.compaction.tracing.flow.lookups import WRITTEN
from bbo.compaction.tracing.flow.positions import Place, length, shape_of
from bbo.compaction.tracing.flow.rules import ELEMENTWISE

Zeros = tuple[np.ndarray, ...]
"""For each axis, bool [positions]: whether all that has this position is zero."""

PRODUCTS = frozenset(("mul", "and", "dot_general", "conv_general_dilated"))
"""Zero where any factor is."""
STRUCTURAL = frozenset(
    "broadcast_in_dim transpose squeeze reshape concatenate split stack unstack slice tile rev "
    "dynamic_slice reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "
    "reduce_window_sum reduce_window_max reduce_window_min psum cumsum cummax cummin cumprod copy "
    "copy_p fft optimization_barrier device_put stop_gradient sharding_constraint pvary".split()
)
"""Zero where all that goes in is, at the positions of which it says that they go there."""


def zeros_of(value: Any) -> Zeros:
    """Where an array is zero; nowhere, if its value is no number or not yet known."""
    number = as_number(value)
    if number is None:
        return nowhere(value)
    is_zero = number == 0
    axes = range(is_zero.ndim)
    return tuple(is_zero.all(axis=tuple(a for a in axes if a != axis)) for axis in axes)


def nowhere(aval: Any) -> Zeros:
    """Of an array of which nothing is known."""
    return tuple(np.zeros(length(size), bool) for size in shape_of(aval))


def both(one: Zeros, other: Zeros) -> Zeros:
    """Where two arrays of one shape are zero."""
    return tuple(map(np.logical_and, one, other))


def zeros_after(
    facts: Finite, step: Step, number: int, given: Sequence[Zeros], known: Sequence[Any]
) -> Zeros:
    """Where a result of a primitive is zero.

    Args:
      facts: of the program.
      step: the primitive.
      number: of the result.
      given: where the operands are zero.
      known: the operands that are one number.
    """
    arrays, ref = facts.arrays, step.results[number]
    if not step.flow.ties or _is_of_nothing(arrays, step) or not _sees_all(step):
        return nowhere(arrays.avals[ref])
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
            parts[operand.array] = np.all(np.append(source, True)[index], axis=1)  # -1: True
        found.append((parts, is_new))
    return found


def _is_of_nothing(arrays: Arrays, step: Step) -> bool:
    """Whether numbers are made of none, as the maximum of an axis without positions is."""
    shapes = [shape_of(arrays.avals[ref]) for ref in step.operands]
    return step.primitive.name.startswith("reduce_") and any(0 in shape for shape in shapes)


def _sees_all(step: Step) -> bool:
    """Whether each window of a pooling has a position that is no padding, which may be infinite."""
    if step.primitive.name not in ("reduce_window_max", "reduce_window_min"):
        return True
    params = step.params
    return not any(any(pads) for pads in params["padding"]) or (
        {*params["base_dilation"], *params["window_dilation"]} == {1}
        and all(
            max(pads) < size
            for pads, size in zip(params["padding"], params["window_dimensions"], strict=True)
        )
    )


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
    name, none = step.primitive.name, np.zeros(len(is_new), bool)
    if not parts:
        return none
    if name in PRODUCTS:
        is_zero = [parts.get(operand, none) for operand in range(len(step.operands))]
        return product_is_zero(is_zero, list(facts.at(step, place)))
    if name in STRUCTURAL:
        return np.logical_and.reduce(list(parts.values())) & ~is_new
    if name in ("gather", "scatter-mul", "pad"):
        return parts.get(0, none) if _keeps_zeros(step, known) else none
    if name in WRITTEN:
        zero = parts.get(0, none) & parts.get(WRITTEN[name], none)
        return zero if _keeps_zeros(step, known) else none
    if name == "div" and known[1] is None:
        # 0 / 0 is no zero.
        return parts.get(0, none) & ~(
            facts.at(step, place)[1] | _divides_by_zero(facts, step, place, parts)
        )
    return _computed(facts.arrays, step, parts, known) if name in ELEMENTWISE else none


def _keeps_zeros(step: Step, known: Sequence[Any]) -> bool:
    """Whether a primitive puts nothing else in the place of zeros that it moves."""
    match step.primitive.name:
        case "gather":  # NaN stands for places out of range, which is an error
            value = step.params["fill_value"]
            return value is None or not value or bool(np.isnan(value))
        case "pad":
            return known[1] is not None and not known[1]
        case "scatter":  # may be any function of what was there
            return step.params["update_jaxpr"] is None
    return True


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


def singular(
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
                is_zero &= not all(map(np.isfinite, _values_at(facts.arrays, step, values, parts)))
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
    found &= bool(found.any()) and not any(_values_at(arrays, step, values, parts))
    if step.primitive.name == "select_n" and all(x is not None and not x for x in values[1:]):
        # Whichever is selected.
        unknown = {i: is_zero for i, is_zero in parts.items() if known[i] is None}
        found |= np.all([is_zero for i, is_zero in unknown.items() if i > 0], axis=0)
    return found


def _values_at(
    arrays: Arrays, step: Step, values: Sequence[Any], zeros: Container[int]
) -> list[np.ndarray]:
    """What an elementwise primitive gives for these numbers, zeros of both signs."""
    dtypes = [arrays.avals[ref].dtype for ref in step.operands]
    signed = [
        (0.0, -0.0)
        if i in zeros and not value and jnp.issubdtype(dtype, jnp.floating)
        else (value,)
        for i, (value, dtype) in enumerate(zip(values, dtypes, strict=True))
    ]
    chosen = [
        tuple(
            (dtype, np.asarray(x, dtype).tobytes())
            for x, dtype in zip(numbers, dtypes, strict=True)
        )
        for numbers in itertools.product(*signed)
    ]
    params = tuple(sorted(step.params.items()))
    try:
        return [_value(step.primitive, params, numbers) for numbers in chosen]
    except TypeError:  # parameters that cannot be looked up
        return [_value.__wrapped__(step.primitive, params, numbers) for numbers in chosen]


@functools.lru_cache(maxsize=4096)
def _value(
    primitive: Any, params: tuple[tuple[str, Any], ...], numbers: tuple[tuple[Any, bytes], ...]
) -> np.ndarray:
    """What a primitive gives for single numbers; remembered, as networks ask for few of them."""
    with jax.ensure_compile_time_eval():
        given = [jnp.asarray(np.frombuffer(data, dtype)[0], dtype) for dtype, data in numbers]
        return np.asarray(primitive.bind(*given, **dict(params)))
