"""Which arrays a program needs for what it gives."""

import functools
from collections.abc import Callable, Collection

from bbo.compaction.tracing.arrays import Program, Step
from bbo.compaction.tracing.custom import CUSTOM
from bbo.compaction.tracing.program import Traced

UNREAD = "the function does not read it"


def arrays_read(program: Program, without: Collection[int] = ()) -> set[int]:
    """The numbers of all arrays on which the outputs of a program depend.

    Args:
      program: reads them.
      without: the numbers of outputs that are left out.
    """
    needed = {ref for number, ref in enumerate(program.outputs) if number not in without}
    for step in reversed(program.steps):
        if not needed.isdisjoint(step.results):
            needed |= _operands_read(step)
    return needed


def _operands_read(step: Step) -> set[int]:
    """Of a step with programs within it: the operands that these read."""
    entering = entered(step)
    if not step.inner or not entering:
        return set(step.operands)
    first = step.operands[:1] if step.primitive.name == "cond" else ()
    return set(first).union(
        outer
        for program, given in zip(step.inner, entering, strict=True)
        for needed in [arrays_read(program)]
        for outer, inner in zip(given, program.inputs, strict=True)
        if inner in needed
    )


def entered(step: Step) -> list[tuple[int, ...]]:
    """For each program within a step: the operands that its inputs are, or are parts of."""
    operands, params = step.operands, step.params
    match step.primitive.name:
        case "cond":
            return [operands[1:]] * len(step.inner)
        case "while":
            first = params["cond_nconsts"]
            second = first + params["body_nconsts"]
            return [operands[:first] + operands[second:], operands[first:]]
        case name if name == "scan" or name in CUSTOM:
            return [operands]
    return []


def unread(traced: Traced) -> Callable[[frozenset[str]], bool]:
    """Whether nothing depends on variables but their own next values."""
    refs = {name: ref for ref, name in enumerate(traced.names)}
    read = arrays_read(traced.program, traced.updated)

    @functools.cache
    def is_unread(names: frozenset[str]) -> bool:
        own = {refs[name] for name in names}
        if own & read or not traced.updated:
            return not own & read
        their_next = {number for number, variable in traced.updated.items() if variable in own}
        return not own & arrays_read(traced.program, their_next)

    return is_unread
