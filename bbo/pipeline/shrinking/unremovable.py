"""Which filters of a network cannot be removed, and why."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bbo import pruning, trees
from bbo.compaction.channels import Channels, Cut, Group
from bbo.compaction.dead import follow
from bbo.compaction.staying import OTHERS, Staying, lines_of, staying_channels
from bbo.types import Params, PyTree

NOT_SELECTED = "prune_on does not match the kernel"
TOGETHER = "; scope 'group' prunes them together"


def staying_filters(
    groups: Sequence[Group], params: Params, selected: Collection[str]
) -> list[Staying]:
    """Filters that stay whatever their score.

    Of kernels of convolutions, and of others that were selected: a classifier's logits are no
    filters.

    Args:
      groups: of the parameters, see ``Channels.within``.
      params: filters on the last axis; shapes suffice.
      selected: the kernels that are pruned.
    """
    leaves = trees.flatten(params)
    found: dict[tuple[str, str], int] = {}
    for group in groups:
        for name, positions in group.kernels(leaves).items():
            if name in selected or pruning.convolutions(name, leaves[name]):
                reason = group.fixed or _not_pruned(group, name, leaves, selected)
                if reason:
                    found[name, reason] = found.get((name, reason), 0) + positions.size
    return [
        Staying(name, count, leaves[name].shape[-1], reason)
        for (name, reason), count in found.items()
    ]


def _not_pruned(
    group: Group, name: str, leaves: Mapping[str, Any], selected: Collection[str]
) -> str:
    """Empty, or which selection keeps the channels that a kernel puts out."""
    if name not in selected:
        return NOT_SELECTED
    others = [other for other in group.kernels(leaves) if other not in selected]
    return f"{', '.join(others)} put them out too, and stay whole" if others else ""


def zero_filters(found: Channels, variables: PyTree, cut: Cut) -> list[Staying]:
    """Filters of convolutions that are zero, and were not removed all the same.

    Without those that nothing could remove: of these ``staying_filters`` tells.

    Args:
      found: the channels of the network.
      variables: of the pruned network, concrete.
      cut: what was removed of them.
    """
    leaves, groups = trees.flatten(variables["params"]), found.within("params").groups
    fixed = {group.fixed for group in groups}
    shared = {
        name for group in groups if len(kernels := group.kernels(leaves)) > 1 for name in kernels
    }
    stay = []
    for line in staying_channels(found, follow(found, variables), cut):
        name, reason = line.name.removeprefix("params/"), line.reason
        is_filter = name in leaves and pruning.convolutions(name, leaves[name])
        if is_filter and reason not in fixed:
            is_shared = name in shared and reason.startswith(OTHERS)
            stay.append(line._replace(name=name, reason=reason + TOGETHER * is_shared))
    return stay


def staying_text(found: Sequence[Staying]) -> str:
    """A line for each reason, with the kernels and how many of their filters it keeps.

    >>> found = [Staying("conv1/kernel", 8, 8, "fixed"), Staying("conv2/kernel", 3, 8, "fixed")]
    >>> print(staying_text(found))
    Filters that cannot be removed:
      fixed: conv1/kernel (8), conv2/kernel (3 of 8)
    >>> print(staying_text([]))
    Filters that cannot be removed: none
    """
    lines = [f"\n  {line}" for line in lines_of(found)]
    return f"Filters that cannot be removed:{''.join(lines) or ' none'}"
