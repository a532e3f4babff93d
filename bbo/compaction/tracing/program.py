"""A function as one list of primitives, with a number for each position along each axis.

Calls are inlined; loops and branches hold programs of their own. Positions that live and die
together are joined by edges, by the rules of ``flow.rules``.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from bbo import trees
from bbo.compaction.tracing.flow.positions import Call, Flow, Place, shape_of
from bbo.compaction.tracing.flow.positions import length as length_of
from bbo.compaction.tracing.flow.rules import flow_of
from bbo.types import PyTree

INLINED = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
"""Primitives that do nothing but call a program, and the parameter that holds it."""
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
    """Of a loop or a branch."""


class Program(NamedTuple):
    """Primitives one after the other."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: list[Step]


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
    edges: list[tuple[np.ndarray, np.ndarray]]
    """Positions that live and die together."""
    fixed: list[tuple[np.ndarray, str]]
    """Positions that cannot be removed, and why."""
    read: set[Member]
    """Axes of parameters that are summed over."""
    counter: Any  # gives the next number of a position


class Traced(NamedTuple):
    """A function, read."""

    program: Program
    arrays: Arrays
    names: list[str]
    """Of the variables, which are the first inputs of the program."""
    result: Any
    """The tree structure of what the function gives."""


def trace(function: Callable[..., PyTree], variables: PyTree, *inputs: PyTree) -> Traced:
    """Reads ``function(variables, *inputs)``; shapes and dtypes of the arguments suffice."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(variables, *inputs)
    names = list(trees.flatten(variables))
    arrays = Arrays([], [], [], [], {}, [], [], set(), itertools.count())
    refs = []
    for name, aval in itertools.zip_longest(names, closed.in_avals):
        axes = range(len(shape_of(aval)))
        if name is None:
            refs.append(_add(arrays, aval, [frozenset() for _ in axes], varies=True))
            _fix(arrays, refs[-1], "it is an axis of an input")
        else:
            origins = [frozenset({(name, axis)}) for axis in axes]
            refs.append(_add(arrays, aval, origins, varies=False))
    program = _read(arrays, closed.jaxpr, closed.consts, refs)
    for output in program.outputs:
        _fix(arrays, output, "it is an axis of the result")
    return Traced(program, arrays, names, jax.tree.structure(shapes))


def _add(arrays: Arrays, aval: Any, origins: Sequence[frozenset[Member]], *, varies: bool) -> int:
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


def _fix(arrays: Arrays, ref: int, reason: str) -> None:
    arrays.fixed.extend((nodes, reason) for nodes in arrays.nodes[ref])


def _constant(arrays: Arrays, aval: Any, value: Any) -> int:
    origins = [frozenset() for _ in shape_of(aval)]
    ref = _add(arrays, aval, origins, varies=False)
    arrays.constants[ref] = value
    return ref


def _read(arrays: Arrays, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> Program:
    """A jaxpr with all calls inlined."""
    steps: list[Step] = []
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        known[var] = _constant(arrays, var.aval, value)

    def ref_of(atom: Any) -> int:
        is_literal = isinstance(atom, core.Literal)
        return _constant(arrays, atom.aval, atom.val) if is_literal else known[atom]

    for equation in jaxpr.eqns:
        operands = tuple(map(ref_of, equation.invars))
        name = equation.primitive.name
        if name in INLINED:
            part = _read(arrays, *_opened(equation.params[INLINED[name]]), operands)
            steps += part.steps
            results = part.outputs
        else:
            avals = [var.aval for var in equation.outvars]
            step = CONTROL.get(name, _step)(arrays, equation, operands, avals)
            steps.append(step)
            results = step.results
        known |= dict(zip(equation.outvars, results, strict=True))
    return Program(tuple(inputs), tuple(map(ref_of, jaxpr.outvars)), steps)


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants; which of the kinds a primitive holds differs between jax's."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def _step(arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]) -> Step:
    """One primitive: its results, and what it says of positions."""
    call = Call(
        equation.params,
        [shape_of(arrays.avals[ref]) for ref in operands],
        [shape_of(aval) for aval in avals],
        [tuple(map(bool, arrays.origins[ref])) for ref in operands],
    )
    found = flow_of(equation.primitive.name, call)
    origins = [[frozenset() for _ in shape_of(aval)] for aval in avals]
    for result, operand, _ in found.ties:
        origins[result.array][result.axis] |= arrays.origins[operands[operand.array]][operand.axis]
    varies = any(arrays.varies[ref] for ref in operands)
    results = tuple(
        _add(arrays, aval, origin, varies=varies)
        for aval, origin in zip(avals, origins, strict=True)
    )
    _record(arrays, found, operands, results)
    return Step(equation.primitive, equation.params, operands, results, found)


def _record(arrays: Arrays, found: Flow, operands: Sequence[int], results: Sequence[int]) -> None:
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


LOOPED = "a loop runs along it"


def _alike(arrays: Arrays, one: int, other: int, *, skip: int = 0) -> None:
    """Ties all axes of two arrays, but for the first ones of ``one``."""
    pairs = zip(arrays.nodes[one][skip:], arrays.nodes[other], strict=True)
    arrays.edges.extend(pair for pair in pairs if len(pair[0]) == len(pair[1]))


def _inner(
    arrays: Arrays, jaxpr: Any, outer: Sequence[int], *, looped: int | None = None
) -> Program:
    """A program within another one, its inputs tied to arrays outside.

    Args:
      arrays: all of them.
      jaxpr: with its constants or without.
      outer: for each input, the array that it is; from ``looped`` on, a part of it each time,
        along the first axis.
      looped: see ``outer``.
    """
    inputs = []
    jaxpr, consts = _opened(jaxpr)
    avals = [var.aval for var in jaxpr.invars]
    for number, (ref, aval) in enumerate(zip(outer, avals, strict=True)):
        skip = int(looped is not None and number >= looped)
        inputs.append(_add(arrays, aval, arrays.origins[ref][skip:], varies=arrays.varies[ref]))
        _alike(arrays, ref, inputs[-1], skip=skip)
        arrays.fixed.extend((nodes, LOOPED) for nodes in arrays.nodes[ref][:skip])
    return _read(arrays, jaxpr, consts, inputs)


def _results(
    arrays: Arrays, avals: Sequence[Any], program: Program, *, looped: int | None = None
) -> tuple[int, ...]:
    """Results tied to the outputs of an inner program; from ``looped`` on those are stacked."""
    refs = []
    for number, (aval, output) in enumerate(zip(avals, program.outputs, strict=True)):
        skip = int(looped is not None and number >= looped)
        origins = [frozenset()] * skip + list(arrays.origins[output])
        refs.append(_add(arrays, aval, origins, varies=True))
        _alike(arrays, refs[-1], output, skip=skip)
        arrays.fixed.extend((nodes, LOOPED) for nodes in arrays.nodes[refs[-1]][:skip])
    return tuple(refs)


def _scan(arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]) -> Step:
    # Told by their ranks, since not every jax says how many operands are of which kind.
    jaxpr, _ = _opened(equation.params["jaxpr"])
    parts = _more_axes([arrays.avals[ref] for ref in operands], jaxpr.invars)
    num_carry = len(avals) - _more_axes(avals, jaxpr.outvars)
    looped = len(operands) - parts
    counts = {"num_consts": looped - num_carry, "num_carry": num_carry}
    program = _inner(arrays, equation.params["jaxpr"], operands, looped=looped)
    for ref, output in zip(operands[looped - num_carry : looped], program.outputs, strict=False):
        _alike(arrays, ref, output)
    results = _results(arrays, avals, program, looped=num_carry)
    return Step(equation.primitive, equation.params | counts, operands, results, Flow(), (program,))


def _more_axes(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many arrays have an axis more outside of a loop than in it."""
    pairs = zip(outer, inner, strict=True)
    return sum(len(shape_of(aval)) > len(shape_of(var.aval)) for aval, var in pairs)


def _while(arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]) -> Step:
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    condition = _inner(arrays, params["cond_jaxpr"], (*operands[:first], *operands[second:]))
    body = _inner(arrays, params["body_jaxpr"], operands[first:])
    for ref, output in zip(operands[second:], body.outputs, strict=True):
        _alike(arrays, ref, output)
    results = _results(arrays, avals, body)
    return Step(equation.primitive, params, operands, results, Flow(), (condition, body))


def _cond(arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]) -> Step:
    branches = equation.params["branches"]
    inner = tuple(_inner(arrays, branch, operands[1:]) for branch in branches)
    results = _results(arrays, avals, inner[0])
    for branch in inner[1:]:
        for ref, output in zip(results, branch.outputs, strict=True):
            _alike(arrays, ref, output)
    return Step(equation.primitive, equation.params, operands, results, Flow(), inner)


CONTROL: dict[str, Callable[..., Step]] = {"scan": _scan, "while": _while, "cond": _cond}
"""Primitives with programs within them."""
