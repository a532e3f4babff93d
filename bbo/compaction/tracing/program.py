"""A function as one list of primitives, with a number for each position along each axis.

Calls are inlined; loops and branches hold programs of their own (``control``), and so do functions
with derivatives of their own (``custom``). Positions that live and die together are joined by
edges, by the rules of ``flow.rules``.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from bbo import trees
from bbo.compaction.tracing import constants
from bbo.compaction.tracing.arguments import join, key_of, spec_of, split
from bbo.compaction.tracing.arrays import (
    Arrays,
    Program,
    Step,
    add,
    constant,
    empty,
    fix,
    opened,
    record,
    tie_axes,
)
from bbo.compaction.tracing.control import CONTROL
from bbo.compaction.tracing.custom import CUSTOM, called
from bbo.compaction.tracing.flow.positions import Call, Choices, shape_of
from bbo.compaction.tracing.flow.rules import flow_of
from bbo.compaction.tracing.updates import Updates, next_variables
from bbo.types import PyTree

INLINED = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that do nothing but call a program, and the parameter that holds it."""


RESULT = "it is an axis of the result"
"""Why the channels that are one cannot be removed."""


class Traced(NamedTuple):
    """A function, read."""

    program: Program
    arrays: Arrays
    names: list[str]
    """Of the variables, which are the first inputs of the program."""
    result: Any
    """The tree structure of what the function gives."""
    key: Hashable | None = None
    """Of the arguments, see ``arguments.key_of``."""
    updated: Mapping[int, int] = {}
    """Results that are next variables, see ``updates.next_variables``."""


Reader = Callable[[Choices], Traced]
"""Reads a function, by which of the axes carries channels on wherever one is split."""


def trace(function: Callable[..., PyTree], variables: PyTree, *inputs: PyTree, **kwargs) -> Traced:
    """Reads ``function(variables, *inputs, **kwargs)``; shapes and dtypes of arrays suffice."""
    return reader(function, variables, *inputs, **kwargs)({})


def reader(
    function: Callable[..., PyTree],
    variables: PyTree,
    *inputs: PyTree,
    updates: Updates | None = None,
    **kwargs: PyTree,
) -> Reader:
    """As ``trace``, for any choices; the function is called once."""
    given = split((inputs, kwargs))

    def plain(variables: PyTree, arrays: Sequence[Any]) -> PyTree:
        inputs, kwargs = join(given, arrays)
        return function(variables, *inputs, **kwargs)

    named = trees.flatten(variables)
    for name, leaf in named.items():
        trees.require_array(name, leaf, "traced")
    specs = jax.tree.map(spec_of, (variables, given.arrays))
    closed, shapes = jax.make_jaxpr(plain, return_shape=True)(*specs)
    updated = next_variables(updates, shapes, variables)
    tree, key = jax.tree.structure(shapes), key_of(variables, given)

    def read_by(choices: Choices) -> Traced:
        program, arrays = _whole(closed, list(named), updated, choices)
        return Traced(program, arrays, list(named), tree, key, updated)

    return read_by


def _whole(
    closed: Any, named: list[str], updated: Mapping[int, int], choices: Choices
) -> tuple[Program, Arrays]:
    """The program of a function whose first inputs are variables of these names."""
    arrays = empty(choices)
    refs = []
    for name, aval in itertools.zip_longest(named, closed.in_avals):
        axes = range(len(shape_of(aval)))
        if name is None:
            refs.append(add(arrays, aval, [frozenset() for _ in axes], varies=True))
            fix(arrays, refs[-1], "it is an axis of an input")
        else:
            origins = [frozenset({(name, axis)}) for axis in axes]
            refs.append(add(arrays, aval, origins, varies=False))
    program = read(arrays, closed.jaxpr, closed.consts, refs)
    for number, output in enumerate(program.outputs):
        if number in updated:
            tie_axes(arrays, refs[updated[number]], output)
        else:
            fix(arrays, output, RESULT)
    return program, arrays


def read(arrays: Arrays, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> Program:
    """A jaxpr with all calls inlined, but for those that have derivatives of their own."""
    steps: list[Step] = []
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        known[var] = constant(arrays, var.aval, value)

    def ref_of(atom: Any) -> int:
        is_literal = isinstance(atom, core.Literal)
        return constant(arrays, atom.aval, atom.val) if is_literal else known[atom]

    for equation in jaxpr.eqns:
        operands = tuple(map(ref_of, equation.invars))
        name = equation.primitive.name
        if name in INLINED:
            part = read(arrays, *opened(equation.params[INLINED[name]]), operands)
            steps += part.steps
            results = part.outputs
        else:
            avals = [var.aval for var in equation.outvars]
            more = (arrays, equation, operands, avals)
            if name in CUSTOM:
                step = called(read, arrays, equation, operands)
            else:
                step = CONTROL[name](read, *more) if name in CONTROL else _step(*more)
            if isinstance(step, Step):
                steps.append(step)
                results = step.results
            else:
                results = step
        known |= dict(zip(equation.outvars, results, strict=True))
    return Program(tuple(inputs), tuple(map(ref_of, jaxpr.outvars)), steps)


def _step(
    arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]
) -> Step | tuple[int, ...]:
    """One primitive: its results, and what it says of positions; or its results as constants."""
    call = Call(
        equation.params,
        [shape_of(arrays.avals[ref]) for ref in operands],
        [shape_of(aval) for aval in avals],
        [tuple(map(bool, arrays.origins[ref])) for ref in operands],
        arrays.choices,
        constants.places_of(arrays, equation, operands),
    )
    found = flow_of(equation.primitive.name, call)
    if values := constants.folded(arrays, equation, operands, call, found):
        return values
    origins = [[frozenset() for _ in shape_of(aval)] for aval in avals]
    for result, operand, _ in found.ties:
        origins[result.array][result.axis] |= arrays.origins[operands[operand.array]][operand.axis]
    varies = any(arrays.varies[ref] for ref in operands)
    results = tuple(
        add(arrays, aval, origin, varies=varies)
        for aval, origin in zip(avals, origins, strict=True)
    )
    constants.note(arrays, equation, operands, results)
    record(arrays, found, operands, results)
    return Step(equation.primitive, equation.params, operands, results, found)
