"""Which filters of a network cannot be removed, and why."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bbo import pruning, trees
from bbo.compaction.channels import Cut, Group
from bbo.types import Params

NOT_SELECTED = "prune_on does not match the kernel"
SHARED = "zero, but other layers put out the same channels; scope 'group' prunes them together"
ALIVE = "zero, but what follows them is not, or no other is left"


class Staying(NamedTuple):
    """Filters of a kernel that cannot be removed."""

    kernel: str
    filters: int
    """How many."""
    of: int
    """How many the kernel has."""
    reason: str


def staying_filters(
    groups: Sequence[Group], params: Params, selected: Collection[str]
) -> list[Staying]:
    """Filters that stay whatever their score.

    Of kernels of convolutions, and of others that were selected: a classifier's logits are no
    filters.

    Args:
      groups: of the parameters, see ``groups.groups_of``.
      params: filters on the last axis; shapes suffice.
      selected: the kernels that are pruned.
    """
    leaves = trees.flatten(params)
    found: dict[tuple[str, str], int] = {}
    for group in groups:
        for name, positions in _kernels(group, params).items():
            if name in selected or pruning.convolutions(name, leaves[name]):
                reason = group.fixed or _not_pruned(group, name, params, selected)
                if reason:
                    found[name, reason] = found.get((name, reason), 0) + positions.size
    return [
        Staying(name, count, leaves[name].shape[-1], reason)
        for (name, reason), count in found.items()
    ]


def _kernels(group: Group, params: Params) -> dict[str, np.ndarray]:
    """The filters that put out the channels of a group, by the names of their kernels."""
    leaves = trees.flatten(params)
    return {
        name: positions
        for (name, axis), positions in group.members.items()
        if (name, axis) not in group.readers and 0 < axis == jnp.ndim(leaves[name]) - 1
    }


def _not_pruned(group: Group, name: str, params: Params, selected: Collection[str]) -> str:
    """Empty, or which selection keeps the channels that a kernel puts out."""
    if name not in selected:
        return NOT_SELECTED
    others = [other for other in _kernels(group, params) if other not in selected]
    return f"{', '.join(others)} put them out too, and stay whole" if others else ""


def zero_filters(groups: Sequence[Group], params: Params, cut: Cut) -> list[Staying]:
    """Filters that are zero, and were not removed all the same.

    Args:
      groups: see ``staying_filters``.
      params: of the pruned network, concrete.
      cut: what was removed, from ``{"params": params, ...}``.
    """
    shared = {
        name for group in groups if len(kernels := _kernels(group, params)) > 1 for name in kernels
    }
    found = []
    for name, leaf in trees.flatten(params).items():
        if not pruning.convolutions(name, leaf):
            continue
        zero = (np.asarray(leaf) == 0).all(axis=tuple(range(leaf.ndim - 1)))
        zero[cut.get((f"params/{name}", leaf.ndim - 1), [])] = False
        if zero.any():
            reason = SHARED if name in shared else ALIVE
            found.append(Staying(name, int(zero.sum()), len(zero), reason))
    return found


def staying_text(found: Sequence[Staying]) -> str:
    """A line for each reason, with the kernels and how many of their filters it keeps.

    >>> found = [Staying("conv1/kernel", 8, 8, "fixed"), Staying("conv2/kernel", 3, 8, "fixed")]
    >>> print(staying_text(found))
    Filters that cannot be removed:
      fixed: conv1/kernel (8), conv2/kernel (3 of 8)
    >>> print(staying_text([]))
    Filters that cannot be removed: none
    """
    reasons: dict[str, list[str]] = {}
    for name, filters, of, reason in found:
        count = f"{filters}" if filters == of else f"{filters} of {of}"
        reasons.setdefault(reason, []).append(f"{name} ({count})")
    lines = [f"\n  {reason}: {', '.join(kernels)}" for reason, kernels in reasons.items()]
    return f"Filters that cannot be removed:{''.join(lines) or ' none'}"
