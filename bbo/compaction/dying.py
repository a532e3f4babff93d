"""Which arrays have to be zero at a channel, so that it is dead and can be removed exactly."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from bbo.compaction.channels import Channels, Group, groups_in, labels_of
from bbo.compaction.dead import follow
from bbo.compaction.kernels import Kernel, find_kernels
from bbo.compaction.tracing.arrays import Member, Program
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.compaction.tracing.reading import entered

Positions = dict[Member, np.ndarray]
"""int [channels, k] by an axis of an array, as in ``Group.members``."""


def dying_members(found: Channels) -> list[Positions]:
    """For each group: where its arrays have to be zero for a channel to be dead.

    Those that put the channel out, its biases, and the scales and shifts of norms; what reads it
    and running statistics only where it is not dead without. Decided on the program, by trying: of
    every other channel all is set to zero, then less, while it stays dead.

    Args:
      found: the channels of a function.

    Returns:
      for each of ``found.groups`` members of it; none if it is fixed, has a single channel, or if
      no zeros make one dead.

    >>> import jax, jax.numpy as jnp
    >>> from bbo.compaction.channels import find_channels
    >>> weights = {"in": jnp.ones((3, 8)), "b": jnp.ones(8), "out": jnp.ones((8, 2))}
    >>> function = lambda w, x: jax.nn.relu(x @ w["in"] + w["b"]) @ w["out"]
    >>> found = find_channels(function, weights, jnp.ones(3))
    >>> [sorted(name for name, _ in members) for members in dying_members(found)]
    [['b', 'in'], [], []]
    """
    whole = found._replace(part="", groups=groups_in(found.traced, found.labels))
    kernels, statistics = find_kernels(whole), _statistics(whole)
    candidates = [_candidates(group, kernels, statistics) for group in whole.groups]
    # What cannot go stays: zeros in it could make norms of others zero, and 0 / 0 is not zero.
    zero = [frozenset(group.members if _can_go(group) else ()) for group in whole.groups]
    zero = _only_if(_dead(whole, zero), zero, [frozenset() for _ in zero])
    for left_out in itertools.zip_longest(*candidates, fillvalue=frozenset()):
        fewer = [own - less for own, less in zip(zero, left_out, strict=True)]
        zero = _only_if(_dead(whole, fewer), fewer, zero)
    if found.part:
        zero = [frozenset(m for m in own if found.own_name(m[0]) is not None) for own in zero]
        zero = _only_if(_dead(whole, zero), zero, [frozenset() for _ in zero])
    by_label = {
        labels_of(whole, group)[0]: {
            (str(found.own_name(name)), axis): group.members[name, axis]
            for name, axis in group.members
            if (name, axis) in own
        }
        for group, own in zip(whole.groups, zero, strict=True)
    }
    return [by_label[labels_of(found, group)[0]] for group in found.groups]


def _only_if(
    good: Sequence[bool], some: Sequence[frozenset[Member]], else_: Sequence[frozenset[Member]]
) -> list[frozenset[Member]]:
    return [a if is_good else b for is_good, a, b in zip(good, some, else_, strict=True)]


def _dead(found: Channels, zero: Sequence[frozenset[Member]]) -> list[bool]:
    """For each group: whether every other channel is dead if these of its members are zero."""
    avals = dict(zip(found.traced.names, found.traced.arrays.avals, strict=False))
    leaves = {name: _ones(aval) for name, aval in avals.items()}
    for group, members in zip(found.groups, zero, strict=True):
        for name, axis in members:
            index = group.members[name, axis][1::2].ravel()
            leaves[name][(slice(None),) * axis + (index,)] = 0
    # A list, which has its leaves in this order.
    summed = follow(found, list(leaves.values())).summed
    return [
        bool(members) and not summed[labels_of(found, group)[1::2]].any()
        for group, members in zip(found.groups, zero, strict=True)
    ]


def _ones(aval: object) -> np.ndarray:
    dtype = getattr(aval, "dtype", np.dtype(bool))
    is_number = isinstance(dtype, np.dtype)
    return np.ones(shape_of(aval), dtype if is_number else bool)


def _can_go(group: Group) -> bool:
    return not group.fixed and group.size > 1


def _candidates(
    group: Group, kernels: Mapping[str, Kernel], statistics: set[str]
) -> list[frozenset[Member]]:
    """What is left out one after the other, if it can be: readers at once, each statistic."""
    readers = frozenset(
        (name, axis)
        for name, axis in group.readers
        if name not in kernels or axis not in kernels[name].outputs
    )
    own = sorted({name for name, _ in group.members if name in statistics - kernels.keys()})
    return [readers, *(frozenset(m for m in group.members if m[0] == name) for name in own)]


def _statistics(found: Channels) -> set[str]:
    """The variables that are subtracted, divided by, or whose roots are taken: of norms."""
    arrays, names, roots = found.traced.arrays, found.traced.names, set()
    sources = {ref: frozenset({name}) for ref, name in enumerate(names)}

    def of(ref: int) -> frozenset[str]:
        return sources.get(ref, frozenset())

    def follow(program: Program) -> None:
        for step in program.steps:
            for inner, given in zip(step.inner, entered(step), strict=True):
                pairs = zip(inner.inputs, given, strict=True)
                sources.update({ref: of(outer) for ref, outer in pairs})
                follow(inner)
            for number in STATISTICS.get(step.primitive.name, ()):
                roots.update(of(step.operands[number]))
            for ref in step.results:
                if not arrays.varies[ref]:
                    sources[ref] = frozenset().union(*map(of, step.operands))

    follow(found.traced.program)
    return roots


STATISTICS = {"sub": (1,), "div": (1,), "rsqrt": (0,), "sqrt": (0,), "log": (0,)}
"""Operands of primitives that statistics are."""
