"""Where the arrays of a program are zero for all inputs, told from its parameters alone.

Inputs and what is computed from them are taken as finite; parameters that are not, and what is
computed from them, are not taken for zero where they are multiplied by zero, see ``finite``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.finite import Finite, finite, product_is_zero
from bbo.compaction.tracing.arrays import Program
from bbo.compaction.tracing.custom import plain_steps
from bbo.compaction.zeros import Zeros, nowhere, singular, zeros_after, zeros_of
from bbo.compaction.zeros_in_loops import LOOPS
from bbo.types import PyTree

VALUE_KEPT = frozenset("broadcast_in_dim reshape squeeze convert_element_type copy".split())
"""A single number stays that number."""


class Followed(NamedTuple):
    """What is known of a program with these parameters, whatever its inputs are."""

    summed: np.ndarray
    """bool, by label: whether something is summed over a channel that may not be zero. If not,
    nothing changes when it is removed."""
    zeros: dict[int, Zeros]
    """Where each array is zero."""


def follow(found: Channels, variables: PyTree) -> Followed:
    """Follows zeros through a function.

    Args:
      found: the channels of the function.
      variables: its concrete parameters.
    """
    leaves = trees.flatten(variables).values()
    zeros = {ref: zeros_of(leaf) for ref, leaf in enumerate(leaves)}
    followed = Followed(np.zeros(int(found.labels.max(initial=0)) + 1, bool), {})
    _follow(found, finite(found, variables), found.traced.program, zeros, followed)
    return followed


def _follow(
    found: Channels, facts: Finite, program: Program, zeros: dict[int, Zeros], followed: Followed
) -> list[Zeros]:
    """Follows zeros through a program, and marks channels over which something else is summed.

    Returns:
      Where the results of the program are zero.
    """
    arrays = found.traced.arrays
    numbers = {
        ref: value
        for ref, constant in arrays.constants.items()
        if not np.shape(constant) and (value := facts.value(ref)) is not None
    }

    def of(ref: int) -> Zeros:
        if ref not in zeros:
            known = ref in arrays.constants
            zeros[ref] = zeros_of(arrays.constants[ref]) if known else nowhere(arrays.avals[ref])
        return zeros[ref]

    for step in plain_steps(program.steps):
        for places in step.flow.sums:
            factors = [(step.operands[array], axis) for array, axis in places]
            is_zero = product_is_zero(
                [of(ref)[axis] for ref, axis in factors],
                [facts.of(ref).axes[axis] for ref, axis in factors],
            )
            nodes = arrays.nodes[factors[0][0]][factors[0][1]]
            followed.summed[found.labels[nodes[~is_zero]]] = True
        given = [of(ref) for ref in step.operands]
        facts.enter(step)
        if step.primitive.name in LOOPS:

            def around(number: int, entering: Sequence[Zeros], *, marks: bool, within=step.inner):
                inner = within[number]
                entered = dict(zip(inner.inputs, entering, strict=True))
                into = followed if marks else Followed(followed.summed.copy(), {})
                return _follow(found, facts, inner, entered, into)

            results = LOOPS[step.primitive.name](step, given, around, facts.widen)
            zeros |= dict(zip(step.results, results, strict=True))
            facts.follow(step, [])
            continue
        if step.primitive.name in VALUE_KEPT and step.operands[0] in numbers:
            numbers[step.results[0]] = numbers[step.operands[0]]
        known = [numbers.get(ref) for ref in step.operands]
        for number, ref in enumerate(step.results):
            result = zeros_after(facts, step, number, given, known)
            is_number_zero = ref in numbers and not numbers[ref]
            zeros[ref] = tuple(map(np.ones_like, result)) if is_number_zero else result
        facts.follow(step, singular(facts, step, given, known))
    results = [of(ref) for ref in program.outputs]
    followed.zeros.update(zeros)
    return results
