"""What a rule is told, and what it says."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Shape = Sequence[Any]


class Place(NamedTuple):
    """An axis of an operand or of a result."""

    array: int
    axis: int


class Tie(NamedTuple):
    """Positions of a result that live and die with positions of an operand."""

    result: Place
    operand: Place
    index: np.ndarray
    """int [positions of the result, k]: the positions of the operand; -1 where there is none."""


class Flow(NamedTuple):
    """What a primitive does to positions. An axis that is in no tie is new."""

    ties: Sequence[Tie] = ()
    joins: Sequence[tuple[Place, Place]] = ()
    """Axes of two operands whose positions are paired."""
    sums: Sequence[tuple[Place, ...]] = ()
    """Axes, one of each operand of a product, that are summed over: zeros there change nothing."""
    fixed_operands: Sequence[tuple[Place, str]] = ()
    """Axes of operands from which nothing can be removed, and why."""
    fixed_results: Sequence[tuple[Place, str]] = ()


class Call(NamedTuple):
    """A primitive at work."""

    params: dict[str, Any]
    operands: list[Shape]
    results: list[Shape]
    carried: list[tuple[bool, ...]]
    """Of each operand and axis: whether positions of a parameter are carried along it."""


def shape_of(aval: Any) -> tuple[Any, ...]:
    """Of a token, which has none: ()."""
    return getattr(aval, "shape", ())


def length(size: Any) -> int:
    """How many positions of an axis are told apart: one, where its size is a symbol."""
    return size if isinstance(size, int) else 1


def all_of(size: Any) -> np.ndarray:
    """Each position with itself."""
    return np.arange(length(size))[:, None]


def same(call: Call, pairs: Sequence[tuple[int, int]], operand: int = 0) -> list[Tie]:
    """Ties of the first result: its axis with an axis of an operand."""
    return [
        Tie(Place(0, out), Place(operand, axis), all_of(call.results[0][out]))
        for out, axis in pairs
    ]


def unknown(name: str) -> Callable[[Call], Flow]:
    """Everything fixed."""
    reason = f"it passes through {name}, which is not understood"

    def rule(call: Call) -> Flow:
        operands, results = (
            [
                (Place(i, axis), reason)
                for i, shape in enumerate(shapes)
                for axis in range(len(shape))
            ]
            for shapes in (call.operands, call.results)
        )
        return Flow(fixed_operands=operands, fixed_results=results)

    return rule
