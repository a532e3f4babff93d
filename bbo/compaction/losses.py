"""Why channels are summed over that are zero where they are put out: where their zeros end."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bbo.compaction.channels import Channels
from bbo.compaction.dead import Followed
from bbo.compaction.tracing.arrays import Member, Program, Step
from bbo.compaction.tracing.custom import plain_steps


class Loss(NamedTuple):
    """A primitive that makes of zeros of a channel what is not zero."""

    step: Step
    beside: frozenset[Member]
    """Axes of parameters that are carried along what else goes in."""


class Reached(NamedTuple):
    """What of a program is not zero and goes where it is summed over."""

    found: Channels
    followed: Followed
    asked: np.ndarray
    """bool, by label: the channels that are asked for."""
    nodes: np.ndarray
    """bool, by position: whether it is such; filled."""
    losses: dict[int, list[Loss]]
    """Where zeros end on the way, by label, the last in the program first; filled."""


def losses(found: Channels, followed: Followed, labels: np.ndarray) -> Reached:
    """Goes back from all sums over channels.

    Args:
      found: the channels of a function.
      followed: its zeros.
      labels: of the channels that are asked for.
    """
    nodes = np.zeros(len(found.labels), bool)
    asked = np.isin(np.arange(len(followed.summed)), labels)
    reached = Reached(found, followed, asked, nodes, {label: [] for label in labels.tolist()})
    if len(labels):
        _back(reached, found.traced.program)
    return reached


def _back(reached: Reached, program: Program) -> None:
    """From the end of a program to its start."""
    for step in reversed(list(plain_steps(program.steps))):
        for inner in step.inner:
            _pass(reached, step.results, inner.outputs)
            _back(reached, inner)
            _pass(reached, inner.inputs, step.operands)
        for places in step.flow.sums:
            _mark_summed(reached, [(step.operands[array], axis) for array, axis in places])
        _through(reached, step)


def _axes(reached: Reached, ref: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each axis of an array: its positions, and whether they are zero, if that is known."""
    nodes = reached.found.traced.arrays.nodes[ref]
    zeros = reached.followed.zeros.get(ref, [np.zeros(len(one), bool) for one in nodes])
    return zip(nodes, zeros, strict=True)


def _pass(reached: Reached, entered: Sequence[int], other: Sequence[int]) -> None:
    """From arrays on one side of a loop or branch to those of the same channels on the other."""
    labels, marked = reached.found.labels, reached.nodes
    found = [labels[nodes[marked[nodes]]] for ref in entered for nodes, _ in _axes(reached, ref)]
    here = np.unique(np.concatenate([np.zeros(0, int), *found]))
    for ref in other:
        for nodes, is_zero in _axes(reached, ref):
            marked[nodes[~is_zero & np.isin(labels[nodes], here)]] = True


def _mark_summed(reached: Reached, factors: Sequence[tuple[int, int]]) -> None:
    """Marks what is summed over, where no factor is zero."""
    axes = [list(_axes(reached, ref))[axis] for ref, axis in factors]
    is_zero = np.logical_or.reduce([zero for _, zero in axes])
    for nodes, _ in axes:
        reached.nodes[nodes[~is_zero]] = True


def _through(reached: Reached, step: Step) -> None:
    """Marks what goes into marked results of a primitive, and notes which of it is zero."""
    arrays, labels = reached.found.traced.arrays, reached.found.labels
    lost: list[np.ndarray] = []
    others: list[tuple[np.ndarray, frozenset[Member]]] = []
    for result, operand, index in step.flow.ties:
        ref = step.operands[operand.array]
        nodes, is_zero = list(_axes(reached, ref))[operand.axis]
        new = arrays.nodes[step.results[result.array]][result.axis]
        index = np.broadcast_to(index, (len(new), index.shape[1]))[reached.nodes[new]]
        given = np.unique(index[index >= 0])
        alive = given[~is_zero[given]]
        reached.nodes[nodes[alive]] = True
        lost.append(np.setdiff1d(labels[nodes[given]], labels[nodes[alive]]))
        others.append((labels[nodes[alive]], arrays.origins[ref][operand.axis]))
    found = np.unique(np.concatenate([np.zeros(0, int), *lost]))
    for label in found[reached.asked[found]].tolist():
        beside = [origins for alive, origins in others if label in alive]
        reached.losses[label].append(Loss(step, frozenset().union(*beside)))
