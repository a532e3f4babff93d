"""Values computed from neither variables nor inputs, worked out where they would fix channels.

A table that is sorted, summed along or written into could not be followed; as a number for each
position it can be cut like any other constant.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bbo.compaction.tracing.arrays import Arrays, Made, constant
from bbo.compaction.tracing.flow.draws import DRAWS
from bbo.compaction.tracing.flow.positions import Call, Flow, length
from bbo.compaction.tracing.flow.rules import RULES

LIMIT = 2**24
"""No larger arrays are worked out."""


def note(arrays: Arrays, equation: Any, operands: Sequence[int], results: Sequence[int]) -> None:
    """Remembers how results are made, if they are of constants alone."""
    if _can_be_made(arrays, equation, operands):
        for number, ref in enumerate(results):
            arrays.made[ref] = Made(equation, tuple(operands), number)


def folded(
    arrays: Arrays, equation: Any, operands: Sequence[int], call: Call, found: Flow
) -> tuple[int, ...]:
    """The results of a primitive as constants, if its operands are and it would fix them; or ()."""
    fixed = [(call.operands, place) for place, _ in found.fixed_operands]
    fixed += [(call.results, place) for place, _ in found.fixed_results]
    would_fix = any(length(shapes[place.array][place.axis]) > 1 for shapes, place in fixed)
    if not would_fix or not _can_be_made(arrays, equation, operands):
        return ()
    values = _evaluated(arrays, equation, operands)
    made = zip(equation.outvars, values, strict=True)
    return tuple(constant(arrays, var.aval, value) for var, value in made)


def places_of(arrays: Arrays, equation: Any, operands: Sequence[int]) -> np.ndarray | None:
    """Where a ``gather`` looks up, if that is known."""
    if equation.primitive.name != "gather" or not _is_known(arrays, operands[1]):
        return None
    return np.asarray(_value_of(arrays, operands[1]))


def _can_be_made(arrays: Arrays, equation: Any, operands: Sequence[int]) -> bool:
    return (
        _is_plain(equation)
        and all(_is_small(var.aval) for var in equation.outvars)
        and all(_is_known(arrays, ref) for ref in operands)
    )


def _is_plain(equation: Any) -> bool:
    """Whether a primitive is understood, and makes no random numbers."""
    return equation.primitive.name in RULES and equation.primitive.name not in DRAWS


def _is_known(arrays: Arrays, ref: int) -> bool:
    known = ref in arrays.constants and not isinstance(arrays.constants[ref], Tracer)
    return known or ref in arrays.made


def _is_small(aval: Any) -> bool:
    return all(isinstance(size, int) for size in aval.shape) and aval.size <= LIMIT


def _value_of(arrays: Arrays, ref: int) -> Any:
    if ref not in arrays.constants:
        equation, operands, number = arrays.made[ref]
        arrays.constants[ref] = _evaluated(arrays, equation, operands)[number]
    value = arrays.constants[ref]
    return value if isinstance(value, jax.Array) else jnp.asarray(value, arrays.avals[ref].dtype)


def _evaluated(arrays: Arrays, equation: Any, operands: Sequence[int]) -> list[Any]:
    with jax.ensure_compile_time_eval():
        values = [_value_of(arrays, ref) for ref in operands]
        results = equation.primitive.bind(*values, **equation.params)
    return list(results) if equation.primitive.multiple_results else [results]
