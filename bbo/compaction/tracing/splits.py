"""Axes that carry channels and are split into several, of which one carries them on."""

import collections
from collections.abc import Mapping

import numpy as np

from bbo.compaction.tracing.arrays import Arrays, Program, all_steps
from bbo.compaction.tracing.flow.positions import Choices
from bbo.types import UsageError


def stuck(program: Program, arrays: Arrays, labels: np.ndarray) -> Mapping[tuple[int, ...], int]:
    """The sizes of the parts of axes of which nothing can be removed, and how many such there are.

    Args:
      program: the whole of it.
      arrays: of it and of those within it.
      labels: the channel of each position.
    """
    fixed = {label for nodes, _ in arrays.fixed for label in labels[nodes].tolist()}
    return collections.Counter(
        split.sizes
        for step in all_steps(program)
        for split in step.flow.splits
        if fixed.issuperset(labels[arrays.nodes[step.operands[0]][split.axis]].tolist())
    )


def check_range(parts: Choices) -> None:
    """Refuses choices of parts that there are not.

    Raises:
      UsageError: there are not so many.
    """
    for sizes, axis in parts.items():
        if axis not in range(len(sizes)):
            raise UsageError(f"parts[{sizes}] is {axis}; it has to be in 0..{len(sizes) - 1}")


def check_used(parts: Choices, program: Program) -> None:
    """Refuses choices that concern no split.

    Raises:
      UsageError: nothing is split into parts of these sizes.
    """
    splits = {split.sizes for step in all_steps(program) for split in step.flow.splits}
    for sizes in parts:
        if sizes not in splits:
            raise UsageError(
                f"no axis of channels is split into {sizes}; there are {sorted(splits) or 'none'}"
            )
