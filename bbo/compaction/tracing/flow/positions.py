"""What a rule is told, and what it says."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Shape = Sequence[Any]
SINGLED_OUT = "a single one of them is picked out"
"""Of an axis of one position that vanishes or is repeated: its values go on, not whose they are."""


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


class Split(NamedTuple):
    """An axis that carries channels and is split into several, of which one carries them on."""

    axis: int
    """Of the operand."""
    sizes: tuple[int, ...]
    """Of the axes that it is split into."""


Choices = Mapping[tuple[int, ...], int]
"""Which of the axes carries channels on, by the sizes of all of them: else it is the first."""


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
    splits: Sequence[Split] = ()


class Call(NamedTuple):
    """A primitive at work."""

    params: dict[str, Any]
    operands: list[Shape]
    results: list[Shape]
    carried: list[tuple[bool, ...]]
    """Of each operand and axis: whether positions of a parameter are carried along it."""
    choices: Choices = MappingProxyType({})
    places: np.ndarray | None = None
    """Where a ``gather`` looks up, if that is known: the last of its operands."""


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
