"""Zeros through loops and branches.

What goes around in a loop is zero where it begins as zero and stays so: all that begins as zero is
taken for zero, the body is followed, what does not stay zero is dropped, until all of it stays.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bbo.compaction.tracing.arrays import Program, Step
from bbo.compaction.zeros import Zeros, both

Follow = Callable[..., list[Zeros]]
"""``follow(number, entering, marks=...)``: a program within, by its number; from where its inputs
are zero to where its outputs are. It marks what is summed, or does not."""
Widen = Callable[[int, int], bool]
"""Takes an array to be as risky as another as well; whether that is new. See ``finite``."""


def _cond(step: Step, given: Sequence[Zeros], follow: Follow, widen: Widen) -> list[Zeros]:
    del widen
    branches = [follow(i, given[1:], marks=True) for i in range(len(step.inner))]
    return [functools.reduce(both, results) for results in zip(*branches, strict=True)]


def _while(step: Step, given: Sequence[Zeros], follow: Follow, widen: Widen) -> list[Zeros]:
    first, condition = step.params["cond_nconsts"], step.inner[0]
    second = first + step.params["body_nconsts"]
    consts = given[first:second]

    def body(carry: Sequence[Zeros], *, marks: bool = False) -> list[Zeros]:
        return follow(1, [*consts, *carry], marks=marks)

    carry = _staying(given[second:], body, step.inner[1], widen)
    for ref, output in zip(condition.inputs[first:], step.inner[1].outputs, strict=True):
        widen(ref, output)
    follow(0, [*given[:first], *carry], marks=True)
    body(carry, marks=True)
    return carry


def _scan(step: Step, given: Sequence[Zeros], follow: Follow, widen: Widen) -> list[Zeros]:
    first, number = step.scanned
    consts, parts = given[:first], [zeros[1:] for zeros in given[first + number :]]

    def body(carry: Sequence[Zeros], *, marks: bool = False) -> list[Zeros]:
        return follow(0, [*consts, *carry, *parts], marks=marks)

    (program,) = step.inner
    around = program._replace(inputs=program.inputs[: first + number])
    carry = _staying(given[first : first + number], body, around, widen)
    stacked = body(carry, marks=True)[number:]
    along = [np.zeros(step.params["length"], bool)]
    return [*carry, *(tuple([*along, *zeros]) for zeros in stacked)]


def _staying(
    begin: Sequence[Zeros], body: Callable[..., list[Zeros]], program: Program, widen: Widen
) -> list[Zeros]:
    """Where what goes around is zero all the time, from where it is in the beginning.

    Args:
      begin: the beginning.
      body: once around.
      program: its last inputs and its first outputs are what goes around.
      widen: see there.
    """
    carry, count = list(begin), len(begin)
    pairs = list(zip(program.inputs[len(program.inputs) - count :], program.outputs, strict=False))
    while True:
        after = list(map(both, carry, body(carry)))
        is_wider = any([widen(ref, output) for ref, output in pairs])
        if not is_wider and all(map(np.array_equal, _flat(carry), _flat(after))):
            return carry
        carry = after


def _flat(zeros: Sequence[Zeros]) -> list[np.ndarray]:
    return [along for of_array in zeros for along in of_array]


LOOPS: dict[str, Callable[[Step, Sequence[Zeros], Follow, Widen], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""Where the results of primitives with programs within them are zero."""
