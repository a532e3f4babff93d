"""Where the arrays of a program may not be finite, so that zero times them is no zero.

Inputs, and what is computed from them, are taken as finite. What is computed from parameters alone
has a value, and what becomes infinite wherever something is zero (``1 / x``, ``log``) is told
from the zeros. Numbers that are written into the program, and a -inf that is added, as masks are,
count only where they are a factor themselves.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.tracing.arrays import Arrays, Step, all_steps, bind
from bbo.compaction.tracing.flow.positions import length, shape_of
from bbo.compaction.tracing.reading import entered
from bbo.types import PyTree

Marks = tuple[np.ndarray, ...]
"""For each axis, bool [positions]."""
Values = Callable[[int], np.ndarray | None]
"""The value of an array that depends on parameters alone; None of another, or if it is unknown."""

GUARDS = frozenset(("select_n",))
"""What comes out is what their author has chosen."""
TOTAL = frozenset(
    "abs add add_any ceil clamp concatenate conv_general_dilated convert_element_type copy cos "
    "dot_general erf floor gather logistic max min mul neg reduce_max reduce_min reduce_sum "
    "reshape rev round sign sin slice split square squeeze stop_gradient sub tanh transpose "
    "broadcast_in_dim pad stack unstack".split()
)
"""Primitives that give finite numbers for finite ones, so that their values need not be known."""


class Risk(NamedTuple):
    """Where an array may not be finite."""

    anywhere: bool
    axes: Marks
    """Whether something that has this position may not be."""


class Finite(NamedTuple):
    """What is known of a program."""

    arrays: Arrays
    value: Values
    risks: dict[int, Risk]
    """Grows while the program is followed."""

    def of(self, ref: int) -> Risk:
        """Where an array may not be finite."""
        if ref not in self.risks:
            value = self.value(ref)
            aval = self.arrays.avals[ref]
            self.risks[ref] = no_risk(aval) if value is None else risk_of(~np.isfinite(value))
        return self.risks[ref]

    def at(
        self, step: Step, place: tuple[int, int], others: Mapping[int, Risk] | None = None
    ) -> np.ndarray:
        """Of each operand along the axis of a result: bool [operands, positions].

        Args:
          step: a primitive.
          place: the axis of a result.
          others: what to take instead of the risk of an operand.
        """
        result, axis = place
        size = length(shape_of(self.arrays.avals[step.results[result]])[axis])
        found = np.zeros((len(step.operands), size), bool)
        for number, ref in enumerate(step.operands):
            risk = (others or {}).get(number) or self.of(ref)
            if not risk.anywhere:
                continue
            ties = [t for t in step.flow.ties if t.result == place and t.operand.array == number]
            found[number] = not ties
            for tie in ties:
                marks = (tie.index >= 0) & risk.axes[tie.operand.axis][tie.index]
                found[number] |= marks.any(axis=1)
        return found

    def enter(self, step: Step) -> None:
        """What the programs within a step are given."""
        for program, outer in zip(step.inner, entered(step), strict=False):
            for there, here in zip(outer, program.inputs, strict=False):
                risk, rank = self.of(there), len(self.arrays.nodes[here])
                self.risks[here] = Risk(risk.anywhere, risk.axes[len(risk.axes) - rank :])

    def widen(self, ref: int, other: int) -> bool:
        """Takes an array to be as risky as another as well; whether that is new."""
        one, more = self.of(ref), self.of(other)
        axes = tuple(map(np.logical_or, one.axes, more.axes))
        self.risks[ref] = Risk(one.anywhere or more.anywhere, axes)
        is_same = all(map(np.array_equal, axes, one.axes))
        return not is_same or (more.anywhere and not one.anywhere)

    def follow(self, step: Step, singular: Sequence[np.ndarray]) -> None:
        """What a step gives.

        Args:
          step: a primitive.
          singular: for each axis of its first result, where zeros make it infinite.
        """
        for number, ref in enumerate(step.results):
            aval = self.arrays.avals[ref]
            if not jnp.issubdtype(getattr(aval, "dtype", bool), jnp.inexact):
                self.risks[ref] = no_risk(aval)
            elif step.inner:
                self.risks[ref] = self._left(step, number)
            elif self.arrays.varies[ref] or step.primitive.name in TOTAL or self.value(ref) is None:
                self.risks[ref] = self._passed(step, number, singular)

    def _left(self, step: Step, number: int) -> Risk:
        """By what leaves the programs within it."""
        aval = self.arrays.avals[step.results[number]]
        inner = [program.outputs[number] for program in step.inner if number < len(program.outputs)]
        anywhere = any(self.of(ref).anywhere for ref in inner)
        axes: Any = (np.full(length(size), anywhere) for size in shape_of(aval))
        return Risk(anywhere, tuple(axes))

    def _passed(self, step: Step, number: int, singular: Sequence[np.ndarray]) -> Risk:
        aval = self.arrays.avals[step.results[number]]
        is_singular = not number and any(map(np.any, singular))
        is_risky = any(self.of(ref).anywhere for ref in step.operands)
        if step.primitive.name in GUARDS or not (is_singular or is_risky):
            return no_risk(aval)
        counted = [ref not in self.arrays.constants for ref in step.operands]
        others = self._unmasked(step)
        risks = [others.get(i) or self.of(ref) for i, ref in enumerate(step.operands)]
        of_operands = any(
            risk.anywhere for risk, counts in zip(risks, counted, strict=True) if counts
        )
        marks = [
            (self.at(step, (number, axis), others) & np.array(counted, bool)[:, None]).any(axis=0)
            for axis in range(len(shape_of(aval)))
        ]
        if is_singular:
            for axis, mark in enumerate(marks):
                along = any(more.any() for other, more in enumerate(singular) if other != axis)
                marks[axis] = mark | singular[axis] | along
        anywhere = all(mark.any() for mark in marks) if marks else of_operands
        passed: Any = tuple(marks)
        return Risk(anywhere, passed) if anywhere else no_risk(aval)

    def _unmasked(self, step: Step) -> dict[int, Risk]:
        """Of operands that are added: their risks, but for -inf, with which masks are made."""
        if step.primitive.name not in ("add", "max"):
            return {}
        risky = [(i, ref) for i, ref in enumerate(step.operands) if self.of(ref).anywhere]
        values = {i: self.value(ref) for i, ref in risky}
        return {
            i: risk_of(~(np.isfinite(value) | (value == -np.inf)))
            for i, value in values.items()
            if value is not None
        }


def no_risk(aval: Any) -> Risk:
    """All of it is finite."""
    return Risk(False, tuple(np.zeros(length(size), bool) for size in shape_of(aval)))


def risk_of(marks: np.ndarray) -> Risk:
    """Marks of single numbers, by axis."""
    axes = range(marks.ndim)
    along: Any = (marks.any(axis=tuple(a for a in axes if a != axis)) for axis in axes)
    return Risk(bool(marks.any()), tuple(along))


def finite(found: Channels, variables: PyTree) -> Finite:
    """What can be told before the program is followed."""
    return Finite(found.traced.arrays, parameter_values(found, variables), {})


def parameter_values(found: Channels, variables: PyTree) -> Values:
    """Computes arrays that depend on parameters alone, as they are asked for."""
    arrays, leaves = found.traced.arrays, list(trees.flatten(variables).values())
    # Of a call with derivatives of its own: the step within, which comes behind it.
    makers = {ref: step for step in all_steps(found.traced.program) for ref in step.results}

    @functools.cache
    def value(ref: int) -> np.ndarray | None:
        if ref in arrays.constants:
            return as_number(arrays.constants[ref])
        if ref < len(leaves):
            return as_number(leaves[ref])
        step = makers.get(ref)
        if step is None or step.inner or arrays.varies[ref]:
            return None
        operands = [value(operand) for operand in step.operands]
        if any(operand is None for operand in operands):
            return None
        try:
            with jax.ensure_compile_time_eval():
                dtypes = [arrays.avals[operand].dtype for operand in step.operands]
                given = bind(step, list(map(jnp.asarray, operands, dtypes)))
        except Exception:  # shapes that are symbols, and whatever cannot be done outside
            return None
        results = given if step.primitive.multiple_results else [given]
        return as_number(results[step.results.index(ref)])

    return value


def as_number(value: Any) -> np.ndarray | None:
    """As numpy has it; None for a key of ``jax.random.key``, and for what is being traced."""
    if isinstance(value, Tracer):
        return None
    if jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.prng_key):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)  # bfloat16


def product_is_zero(is_zero: Iterable[np.ndarray], risks: Sequence[np.ndarray]) -> np.ndarray:
    """Where a factor is zero and all others are finite."""
    return np.logical_or.reduce(
        [
            zero
            & ~np.any(
                [risk for other, risk in enumerate(risks) if other != number] or [False], axis=0
            )
            for number, zero in enumerate(is_zero)
        ]
    )
