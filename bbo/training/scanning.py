"""Several training steps in one computation: the host asks once, and the device goes on by itself.

Where a step takes a few milliseconds, as that of a small network on a GPU or TPU, the host may be
what is slow. On CPU convolutions are slow within a loop: experiments/results/benchmarks/digits.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from bbo.types import PyTree


def steps_per_call(most: int, *, of: int) -> int:
    """The largest number up to ``most`` that divides the steps of an epoch: one program does all.

    >>> steps_per_call(16, of=351), steps_per_call(16, of=353)
    (13, 1)
    """
    return max(count for count in range(1, min(most, of) + 1) if of % count == 0)


def in_one_call(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """``step(state, data, batch, ...)`` for each of many batches in turn.

    Args:
      step: to the state after and to metrics.
      most: steps, as in ``steps_per_call``.

    Returns:
      the same function of batches that are stacked along a first axis more, as the metrics are; of
      at most one step, that step itself.
    """
    if most == 1:
        return step

    def steps(state: PyTree, data: PyTree, batches: PyTree, *rest: PyTree) -> Any:
        return jax.lax.scan(lambda state, batch: step(state, data, batch, *rest), state, batches)

    return steps


def stacked(choices: Iterable[PyTree], count: int) -> Iterator[PyTree]:
    """Every ``count`` trees of arrays on the host as one, stacked along a first axis more.

    >>> [group["row"].tolist() for group in stacked([{"row": i} for i in range(4)], 2)]
    [[0, 1], [2, 3]]
    """
    choices = iter(choices)
    while group := list(itertools.islice(choices, count)):
        yield jax.tree.map(lambda *rows: np.stack(rows), *group)
