"""The arrays of a program: a number for each position along each axis, and which are tied."""

import itertools
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from bbo.compaction.tracing.flow.positions import Choices, Flow, Place, shape_of
from bbo.compaction.tracing.flow.positions import length as length_of

Member = tuple[str, int]
"""An axis of a parameter, by name."""


class Step(NamedTuple):
    """A primitive, what it reads and what it writes, by the numbers of the arrays."""

    primitive: Any
    params: dict[str, Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    flow: Flow
    inner: "tuple[Program, ...]" = ()
    """Of a loop, of a branch, or of a function with derivatives of its own."""
    scanned: tuple[int, int] = (0, 0)
    """Of a scan: how many operands are the same in all rounds, and how many go around."""


def bind(step: Step, operands: Sequence[Any]) -> Any:
    """A primitive as it was, also one that calls functions."""
    bound = step.primitive.get_bind_params(step.params)
    # Older jax gives the functions apart from the other parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return step.primitive.bind(*functions, *operands, **params)


class Made(NamedTuple):
    """How an array is made of constants alone."""

    equation: Any
    operands: tuple[int, ...]
    number: int
    """Which of the results it is."""


class Program(NamedTuple):
    """Primitives one after the other."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: list[Step]


def all_steps(program: Program) -> Iterator[Step]:
    """The steps of a program, each before those of the programs within it."""
    for step in program.steps:
        yield step
        for inner in step.inner:
            yield from all_steps(inner)


class Arrays(NamedTuple):
    """All arrays of a program and of those within it; all grow while it is read."""

    avals: list[Any]
    """Shape and dtype of each."""
    nodes: list[tuple[np.ndarray, ...]]
    """A number for each position along each axis."""
    origins: list[tuple[frozenset[Member], ...]]
    """Of each axis: the axes of parameters whose positions are carried along it."""
    varies: list[bool]
    """Whether it depends on inputs, and not on parameters alone."""
    constants: dict[int, Any]
    """Those whose values are known."""
    made: dict[int, Made]
    """Those whose values can be worked out."""
    edges: list[tuple[np.ndarray, np.ndarray]]
    """Positions that live and die together."""
    fixed: list[tuple[np.ndarray, str]]
    """Positions that cannot be removed, and why."""
    read: set[Member]
    """Axes of parameters that are summed over."""
    counter: Any  # gives the next number of a position
    choices: Choices
    """Which axes carry channels on where an axis is split."""


def empty(choices: Choices = MappingProxyType({})) -> Arrays:
    """No array as yet."""
    return Arrays([], [], [], [], {}, {}, [], [], set(), itertools.count(), choices)


def add(arrays: Arrays, aval: Any, origins: Sequence[frozenset[Member]], *, varies: bool) -> int:
    """A new array whose positions are new."""
    lengths = [length_of(size) for size in shape_of(aval)]
    arrays.nodes.append(
        tuple(
            np.fromiter(itertools.islice(arrays.counter, length), np.int64, length)
            for length in lengths
        )
    )
    arrays.avals.append(aval)
    arrays.origins.append(tuple(origins))
    arrays.varies.append(varies)
    for size, nodes in zip(shape_of(aval), arrays.nodes[-1], strict=True):
        if not isinstance(size, int):
            arrays.fixed.append((nodes, "its size is a symbol"))
    return len(arrays.avals) - 1


def fix(arrays: Arrays, ref: int, reason: str) -> None:
    """Says why nothing can be removed of an array."""
    arrays.fixed.extend((nodes, reason) for nodes in arrays.nodes[ref])


def constant(arrays: Arrays, aval: Any, value: Any) -> int:
    """A new array whose value is known."""
    origins = [frozenset() for _ in shape_of(aval)]
    ref = add(arrays, aval, origins, varies=False)
    arrays.constants[ref] = value
    return ref


def record(arrays: Arrays, found: Flow, operands: Sequence[int], results: Sequence[int]) -> None:
    """Turns what a primitive does into edges between positions."""

    def nodes(refs: Sequence[int], place: Place) -> np.ndarray:
        return arrays.nodes[refs[place.array]][place.axis]

    for result, operand, index in found.ties:
        new = np.broadcast_to(nodes(results, result)[:, None], index.shape)
        known = index >= 0
        arrays.edges.append((new[known], nodes(operands, operand)[index[known]]))
    arrays.edges.extend((nodes(operands, a), nodes(operands, b)) for a, b in found.joins)
    for refs, fixed in ((operands, found.fixed_operands), (results, found.fixed_results)):
        arrays.fixed.extend((nodes(refs, place), reason) for place, reason in fixed)
    for place in itertools.chain.from_iterable(found.sums):
        if not arrays.varies[operands[place.array]]:
            arrays.read.update(arrays.origins[operands[place.array]][place.axis])


def tie_axes(arrays: Arrays, one: int, other: int, *, skip: int = 0) -> None:
    """Ties all axes of two arrays, but for the first ones of ``one``."""
    pairs = zip(arrays.nodes[one][skip:], arrays.nodes[other], strict=True)
    arrays.edges.extend(pair for pair in pairs if len(pair[0]) == len(pair[1]))


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants; which of the kinds a primitive holds differs between jax's."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
