"""Which positions of which parameters are the same channel, read off the jaxpr of any function.

A channel is what can only be removed as a whole: an output of a convolution, with its bias, its
place in the norm behind, the inputs of all layers that read it, and the channels that are added to
it. All are found by following positions through the primitives of the function, see
``tracing.flow.rules``; nothing is known of modules or of the names of parameters.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from bbo.compaction.tracing.arrays import Arrays, Member
from bbo.compaction.tracing.flow.positions import Choices
from bbo.compaction.tracing.program import Traced, reader
from bbo.compaction.tracing.reading import UNREAD, unread
from bbo.compaction.tracing.splits import check_range, check_used, stuck
from bbo.compaction.tracing.updates import NEXT_VARIABLES, OF_RESULT, Updates
from bbo.types import Array, PyTree, UsageError

Cut = dict[Member, np.ndarray]
"""The positions that are removed of an axis of a parameter, in order; axes not in it stay whole."""


class Group(NamedTuple):
    """Channels of one kind: they have positions on the same axes of the same parameters."""

    members: dict[Member, np.ndarray]
    """int [channels, k]: the positions of each channel on that axis."""
    readers: frozenset[Member]
    """Those of the members that are summed over: the inputs of layers."""
    fixed: str
    """Empty, or why none of them can be removed."""

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(next(iter(self.members.values())))

    @property
    def writers(self) -> list[Member]:
        """The other members: kernels that put the channels out, biases, norms."""
        return [member for member in self.members if member not in self.readers]

    def kernels(self, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Of the kernels ``[..., in, out]`` that put the channels out: their filters, by name."""
        return {
            name: self.members[name, axis]
            for name, axis in self.writers
            if 0 < axis == np.ndim(leaves[name]) - 1
        }

    @property
    def name(self) -> str:
        """The parameter after which the group is called, by preference one that puts it out."""
        return max(self.writers or self.members, key=lambda member: member[1])[0]


class Channels(NamedTuple):
    """What has been found in a function."""

    groups: list[Group]
    """By the order of the parameters."""
    traced: Traced
    labels: np.ndarray
    """The channel of each position of each array."""
    part: str = ""
    """What the names of all variables begin with that are meant, as ``params/``, and is left out in
    the groups; see ``within``."""

    @property
    def removable(self) -> list[Group]:
        """The groups from which channels can be removed."""
        return [group for group in self.groups if not group.fixed]

    def own_name(self, name: str) -> str | None:
        """A variable's name without ``part``; None if it does not begin so."""
        return name.removeprefix(self.part) if name.startswith(self.part) else None

    def within(self, collection: str) -> "Channels":
        """The same, as seen from one collection of the variables, with names within it.

        Args:
          collection: ``params``, of Linen's ``{"params": ..., "batch_stats": ...}``.

        Raises:
          UsageError: there is no such collection.
        """
        prefix = f"{collection}/"
        groups = [part for group in self.groups if (part := _within(group, prefix))]
        if not groups:
            names = sorted({name.partition("/")[0] for name in self.traced.names})
            raise UsageError(f"there is no {collection!r} among the variables: {', '.join(names)}")
        return self._replace(groups=groups, part=f"{self.part}{prefix}")


def _within(group: Group, prefix: str) -> Group | None:
    """The members whose names begin so, without that beginning."""
    names = {
        member: (member[0].removeprefix(prefix), member[1])
        for member in group.members
        if member[0].startswith(prefix)
    }
    members = {names[member]: group.members[member] for member in names}
    readers = frozenset(names[member] for member in names if member in group.readers)
    return Group(members, readers, group.fixed) if members else None


def find_channels(
    function: Callable[..., PyTree],
    variables: PyTree,
    *inputs: PyTree,
    updates: Updates | None = None,
    parts: Choices = MappingProxyType({}),
    **kwargs: PyTree,
) -> Channels:
    """Finds the channels of ``function(variables, *inputs, **kwargs)``.

    Args:
      function: any function that jax can trace.
      variables: parameters, statistics: arrays from which channels may be removed.
      *inputs: examples; ``jax.ShapeDtypeStruct`` will do, for variables too. What is no array, as
        ``True`` or a name, is passed on as it is.
      updates: picks from the result what are the next values of variables: ``lambda result:
        result[1]`` for a function that gives ``(logits, {"batch_stats": ...})`` of variables with
        ``batch_stats``. Their channels are those of the variables, and can be removed; all other
        results keep their shapes.
      parts: where an axis of channels is split into several, which of these has them, by their
        sizes: ``{(2, 4): 1}`` for the 4 numbers of 2 heads, each removed from both. Of those not
        named it is the first, or another where else nothing could be removed.
      **kwargs: likewise, as ``train=False``.

    Raises:
      UsageError: a variable is no array; what ``updates`` picks has not the names and shapes of
        variables; nothing is split into ``parts``, or not into so many.

    >>> import jax.numpy as jnp
    >>> weights = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> found = find_channels(lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"], weights, jnp.ones(3))
    >>> for group in found.groups:
    ...     print(group.name, group.size, group.fixed or "can be removed")
    in 3 it is an axis of an input
    in 8 can be removed
    out 2 it is an axis of the result
    """
    read = reader(function, variables, *inputs, updates=updates, **kwargs)

    def found(choices: Choices) -> Channels:
        traced = read(choices)
        labels = components(traced.arrays)
        return Channels(groups_in(traced, labels), traced, labels)

    return _best(found, parts)


def _best(find: Callable[[Choices], Channels], parts: Choices) -> Channels:
    """The channels by those choices that leave most free; splits of the same sizes choose alike.

    A dense layer may put out heads, of several numbers each, where the first axis is the one of
    channels, or an image, where it is the last: others are tried where nothing can be removed of
    what was split. Of choices that leave as much, the one that concerns the fewest splits.
    """
    check_range(parts)
    choices = dict(parts)
    found, tried = find(choices), set(parts)
    check_used(parts, found.traced.program)
    while True:
        splits = stuck(found.traced.program, found.traced.arrays, found.labels)
        untried = sorted(set(splits) - tried, key=lambda sizes: (splits[sizes], sizes))
        others = [choices | {sizes: axis} for sizes in untried for axis in range(1, len(sizes))]
        candidates = [found, *map(find, others)]
        best = max(range(len(candidates)), key=lambda i: _free(candidates[i]))
        if not best:
            return found
        tried |= set(others[best - 1])
        found, choices = candidates[best], others[best - 1]


def _free(found: Channels) -> int:
    """How many positions of parameters are those of channels that can be removed."""
    groups = [group for group in found.removable if group.size > 1]  # one channel has to stay
    return sum(positions.size for group in groups for positions in group.members.values())


def components(arrays: Arrays) -> np.ndarray:
    """The channel of each position: those with an edge have the same."""
    from scipy import sparse  # Here, as it takes longer to load than the rest of the room.

    total = next(arrays.counter)
    one, other = (
        np.concatenate([np.zeros(0, np.int64), *(edge[side] for edge in arrays.edges)])
        for side in (0, 1)
    )
    graph = sparse.coo_array((np.ones(len(one), bool), (one, other)), (total, total))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def groups_in(traced: Traced, labels: np.ndarray) -> list[Group]:
    """Channels that have a position in a parameter, by the axes on which they have some."""
    arrays, names = traced.arrays, traced.names
    reasons: dict[int, str] = {}
    for nodes, reason in arrays.fixed:
        for label in labels[nodes].tolist():
            reasons.setdefault(label, reason)
    channels = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, axes in zip(names, arrays.nodes, strict=False):
        for axis, nodes in enumerate(axes):
            for position, label in enumerate(labels[nodes].tolist()):
                channels[label][name, axis].append(position)
    is_unread = unread(traced)
    alike = collections.defaultdict(list)
    for label, positions in channels.items():
        kind = tuple((member, len(found)) for member, found in positions.items())
        reason = UNREAD if is_unread(frozenset(name for name, _ in positions)) else ""
        alike[kind, reason or reasons.get(label, "")].append(positions)
    return [
        Group(
            {member: np.array([one[member] for one in units]) for member, _ in kind},
            frozenset(arrays.read) & {member for member, _ in kind},
            reason,
        )
        for (kind, reason), units in alike.items()
    ]


def labels_of(found: Channels, group: Group) -> np.ndarray:
    """The label of each channel of a group."""
    (name, axis), positions = next(iter(group.members.items()))
    nodes = found.traced.arrays.nodes[found.traced.names.index(found.part + name)][axis]
    return found.labels[nodes[positions[:, 0]]]


def cut_of(groups: Sequence[Group], removed: Sequence[Array]) -> Cut:
    """Positions on the axes of parameters, from channels of groups.

    Args:
      groups: of ``Channels.removable``.
      removed: bool [channels] for each.

    Raises:
      UsageError: a group is fixed, or nothing is left of it.
    """
    cut: Cut = {}
    for group, units in zip(groups, removed, strict=True):
        if not units.any():
            continue
        if group.fixed:
            hint = f"; {NEXT_VARIABLES}" if group.fixed == OF_RESULT else ""
            raise UsageError(f"no channel of {group.name} can be removed: {group.fixed}{hint}")
        if units.all():
            raise UsageError(f"all {group.size} channels of {group.name} are removed; leave one")
        for member, positions in group.members.items():
            cut[member] = np.union1d(cut.get(member, []), positions[units]).astype(int)
    return cut


def check_cut(found: Channels, cut: Cut) -> None:
    """Refuses a cut that is none of whole channels.

    Raises:
      UsageError: it takes a part of a channel, all channels of a group, or fixed ones, or what the
        function has not.
    """
    arrays = dict(zip(found.traced.names, found.traced.arrays.nodes, strict=False))
    for (name, axis), positions in cut.items():
        sizes = [len(nodes) for nodes in arrays.get(name, ())]
        if axis not in range(len(sizes)) or not np.isin(positions, np.arange(sizes[axis])).all():
            place = f"positions {np.asarray(positions).tolist()} of axis {axis} of {name}"
            what = f"has the shape {sizes}" if name in arrays else "is no variable of the function"
            raise UsageError(
                f"the cut takes {place}, which {what}; make it for a function of these variables"
            )
    for group in found.groups:
        taken = {
            member: np.isin(positions, cut.get(member, ()))
            for member, positions in group.members.items()
        }
        units = np.logical_and.reduce(next(iter(taken.values())), axis=1)
        if any((one != units[:, None]).any() for one in taken.values()):
            places = ", ".join(f"axis {axis} of {name}" for name, axis in taken)
            raise UsageError(
                f"a channel of {group.name} is removed in part; it has positions on {places}; "
                "make the cut with compaction.cut_of"
            )
        cut_of([group], [units])
