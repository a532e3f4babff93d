"""Channels that are zero and stay all the same: which, and why."""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bbo.compaction.channels import Channels, Cut, Group, labels_of
from bbo.compaction.dead import Followed
from bbo.compaction.losses import Reached, losses
from bbo.compaction.tracing.arrays import Member, Step
from bbo.compaction.tracing.flow.positions import shape_of

LAST = "zero, as all others of its group, of which one stays"
NOT_ASKED = "zero, but not among those that were to be removed"
IN_PART = "zero, but it goes only together with others of the same array, which are not zero"
OTHERS = "zero, but other arrays of the same channel are not"
READER = "zero, but what reads it is summed over by itself, as for a mean of its weights"
ALIVE = "zero, but not where it is summed over"


class Staying(NamedTuple):
    """Channels that an array puts out and that are not removed."""

    name: str
    """Of the array."""
    channels: int
    """How many."""
    of: int
    """How many it puts out."""
    reason: str


def staying_channels(found: Channels, followed: Followed, cut: Cut) -> list[Staying]:
    """The zero channels that are still there after a cut.

    A channel is zero if a kernel that puts it out is zero there: an array of two or more axes,
    of which one at least is gone in what it puts out, as it is summed over or looked up in.

    Args:
      found: the channels of the function.
      followed: where its arrays are zero, with the parameters that it had.
      cut: what was removed.
    """
    lines: dict[tuple[Member, str], int] = collections.Counter()
    waiting: list[tuple[Group, Member, np.ndarray]] = []
    for group, member in _put_out(found):
        positions = group.members[member]
        is_zero = _zeros(found, followed, member)[positions]
        is_zero &= ~np.isin(positions, cut.get(member, ()))
        if group.fixed:
            lines[member, group.fixed] += int(is_zero.sum())
        elif is_zero.any():
            waiting.append((group, member, is_zero))
    asked = [labels_of(found, group)[is_zero.any(axis=1)] for group, _, is_zero in waiting]
    labels = np.unique(np.concatenate([np.zeros(0, int), *asked]))
    reached = losses(found, followed, labels[followed.summed[labels]])
    for group, member, is_zero in waiting:
        units = np.flatnonzero(is_zero.any(axis=1)).tolist()
        for unit, reason in zip(units, _reasons(reached, group, member, units, cut), strict=True):
            lines[member, reason] += int(is_zero[unit].sum())
    sizes = {
        name: shape_of(found.traced.arrays.avals[ref])
        for ref, name in enumerate(found.traced.names)
    }
    return [
        Staying(name, count, sizes[name][axis], reason)
        for ((name, axis), reason), count in lines.items()
        if count
    ]


def _put_out(found: Channels) -> Iterator[tuple[Group, Member]]:
    """Channels with the axes of the kernels that put them out."""
    arrays, names = found.traced.arrays, found.traced.names
    lives = np.zeros(int(found.labels.max(initial=0)) + 1, bool)
    for nodes, varies in zip(arrays.nodes, arrays.varies, strict=True):
        for of_axis in nodes if varies else ():
            lives[found.labels[of_axis]] = True
    kernels = {
        name
        for name, nodes in zip(names, arrays.nodes, strict=False)
        if len(nodes) > 1
        and any(
            (name, axis) in arrays.read
            or (len(of_axis) > 1 and not lives[found.labels[of_axis]].any())
            for axis, of_axis in enumerate(nodes)
        )
    }
    for group in found.groups:
        if lives[labels_of(found, group)].any():
            yield from ((group, member) for member in group.writers if member[0] in kernels)


def _zeros(found: Channels, followed: Followed, member: Member) -> np.ndarray:
    """bool [positions] of an axis of a parameter."""
    return followed.zeros[found.traced.names.index(member[0])][member[1]]


def _reasons(
    reached: Reached, group: Group, member: Member, units: Sequence[int], cut: Cut
) -> list[str]:
    """Why zero channels of a group that is not fixed stay."""
    found, followed = reached.found, reached.followed
    alive = {
        other: ~_zeros(found, followed, other)[positions]
        for other, positions in group.members.items()
    }
    left = np.setdiff1d(group.members[member], cut.get(member, ()))
    dead = LAST if len(left) <= group.members[member].shape[1] else NOT_ASKED
    labels, reasons = labels_of(found, group), []
    for unit in units:
        here = {other for other, is_alive in alive.items() if is_alive[unit].any()}
        if not followed.summed[labels[unit]]:
            reasons.append(dead)
        elif member in here:
            reasons.append(IN_PART)
        else:
            reasons.append(_why_summed(reached, group, int(labels[unit]), here))
    return reasons


def _why_summed(reached: Reached, group: Group, label: int, alive: set[Member]) -> str:
    """Why something is summed over a channel that is zero where it is put out.

    Args:
      reached: what is summed over, and where zeros end.
      group: the channel is one of it.
      label: of the channel.
      alive: the axes of parameters that are not zero there.
    """
    found, lost = reached.found, reached.losses[label]
    if lost:
        beside = {member for loss in lost for member in loss.beside} & alive
        if beside & lost[-1].beside:
            return f"{OTHERS} ({_listed(beside)})"
        return f"{ALIVE}: {_lost(found, lost[-1].step)}"
    read = set()
    for name, axis in alive:
        nodes = found.traced.arrays.nodes[found.traced.names.index(name)][axis]
        if reached.nodes[nodes[found.labels[nodes] == label]].any():
            read.add((name, axis))
    if read:
        return f"{READER if read <= group.readers else OTHERS} ({_listed(read)})"
    return ALIVE


def _lost(found: Channels, step: Step) -> str:
    """What a primitive does to zeros."""
    arrays, name = found.traced.arrays, step.primitive.name
    others = [ref for ref in step.operands if shape_of(arrays.avals[ref])]
    if len(set(others) - arrays.constants.keys()) < 2:
        return f"{name} makes of zero what is not"
    return f"{name} puts it together with what is not zero there, such as a mean over channels"


def _listed(members: set[Member]) -> str:
    return ", ".join(sorted({name for name, _ in members}))


def lines_of(staying: Sequence[Staying]) -> list[str]:
    """A line for each reason, with the arrays and how many of their channels it keeps.

    >>> found = [Staying("conv1/kernel", 8, 8, "fixed"), Staying("conv2/kernel", 3, 8, "fixed")]
    >>> lines_of(found)
    ['fixed: conv1/kernel (8), conv2/kernel (3 of 8)']
    """
    reasons: dict[str, list[str]] = {}
    for name, channels, of, reason in staying:
        count = f"{channels}" if channels == of else f"{channels} of {of}"
        reasons.setdefault(reason, []).append(f"{name} ({count})")
    return [f"{reason}: {', '.join(arrays)}" for reason, arrays in reasons.items()]
