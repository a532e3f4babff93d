"""Loops and branches: primitives with programs within them, tied to the arrays outside."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from bbo.compaction.tracing.arrays import Arrays, Program, Step, add, opened, tie_axes
from bbo.compaction.tracing.flow.positions import Flow, shape_of

Read = Callable[[Arrays, Any, Sequence[Any], Sequence[int]], Program]
"""Reads a jaxpr with its constants and its inputs, see ``program.read``."""
LOOPED = "a loop runs along it"


def _inner(
    read: Read,
    arrays: Arrays,
    jaxpr: Any,
    outer: Sequence[int],
    *,
    carried: Collection[int] = (),
    looped: int | None = None,
) -> Program:
    """A program within another one, its inputs tied to arrays outside.

    Args:
      read: reads it.
      arrays: all of them.
      jaxpr: with its constants or without.
      outer: for each input, the array that it is, or begins as; from ``looped`` on, a part of it
        each time, along the first axis.
      carried: the inputs that change from round to round.
      looped: see ``outer``.
    """
    inputs = []
    jaxpr, consts = opened(jaxpr)
    avals = [var.aval for var in jaxpr.invars]
    for number, (ref, aval) in enumerate(zip(outer, avals, strict=True)):
        skip = int(looped is not None and number >= looped)
        varies = arrays.varies[ref] or number in carried
        inputs.append(add(arrays, aval, arrays.origins[ref][skip:], varies=varies))
        tie_axes(arrays, ref, inputs[-1], skip=skip)
        arrays.fixed.extend((nodes, LOOPED) for nodes in arrays.nodes[ref][:skip])
    return read(arrays, jaxpr, consts, inputs)


def _results(
    arrays: Arrays, avals: Sequence[Any], program: Program, *, looped: int | None = None
) -> tuple[int, ...]:
    """Results tied to the outputs of an inner program; from ``looped`` on those are stacked."""
    refs = []
    for number, (aval, output) in enumerate(zip(avals, program.outputs, strict=True)):
        skip = int(looped is not None and number >= looped)
        origins = [frozenset()] * skip + list(arrays.origins[output])
        refs.append(add(arrays, aval, origins, varies=True))
        tie_axes(arrays, refs[-1], output, skip=skip)
        arrays.fixed.extend((nodes, LOOPED) for nodes in arrays.nodes[refs[-1]][:skip])
    return tuple(refs)


def _scan(
    read: Read, arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]
) -> Step:
    # Told by their ranks, since not every jax says how many operands are of which kind.
    jaxpr, _ = opened(equation.params["jaxpr"])
    parts = _more_axes([arrays.avals[ref] for ref in operands], jaxpr.invars)
    num_carry = len(avals) - _more_axes(avals, jaxpr.outvars)
    looped = len(operands) - parts
    counts = looped - num_carry, num_carry
    carried = range(looped - num_carry, looped)
    program = _inner(
        read, arrays, equation.params["jaxpr"], operands, carried=carried, looped=looped
    )
    for ref, output in zip(operands[looped - num_carry : looped], program.outputs, strict=False):
        tie_axes(arrays, ref, output)
    results = _results(arrays, avals, program, looped=num_carry)
    return Step(equation.primitive, equation.params, operands, results, Flow(), (program,), counts)


def _more_axes(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many arrays have an axis more outside of a loop than in it."""
    pairs = zip(outer, inner, strict=True)
    return sum(len(shape_of(aval)) > len(shape_of(var.aval)) for aval, var in pairs)


def _while(
    read: Read, arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]
) -> Step:
    params = equation.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    condition = _inner(read, arrays, params["cond_jaxpr"], (*operands[:first], *operands[second:]))
    carried = range(params["body_nconsts"], len(operands) - first)
    body = _inner(read, arrays, params["body_jaxpr"], operands[first:], carried=carried)
    for ref, output in zip(operands[second:], body.outputs, strict=True):
        tie_axes(arrays, ref, output)
    results = _results(arrays, avals, body)
    return Step(equation.primitive, params, operands, results, Flow(), (condition, body))


def _cond(
    read: Read, arrays: Arrays, equation: Any, operands: tuple[int, ...], avals: list[Any]
) -> Step:
    branches = equation.params["branches"]
    inner = tuple(_inner(read, arrays, branch, operands[1:]) for branch in branches)
    results = _results(arrays, avals, inner[0])
    for branch in inner[1:]:
        for ref, output in zip(results, branch.outputs, strict=True):
            tie_axes(arrays, ref, output)
    return Step(equation.primitive, equation.params, operands, results, Flow(), inner)


CONTROL: dict[str, Callable[..., Step]] = {"scan": _scan, "while": _while, "cond": _cond}
"""Primitives with programs within them."""
