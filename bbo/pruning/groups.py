"""Filters pruned by whole channel groups, so that residual streams shrink as well."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from bbo.compaction.channels import Group
from bbo.types import Array, UsageError


def groups_of(groups: Sequence[Group], collection: str) -> list[Group]:
    """The groups as seen from one collection of Linen variables, with names within it.

    Args:
      groups: of ``{"params": ..., "batch_stats": ...}``.
      collection: ``params``.
    """
    prefix = f"{collection}/"

    def own(name: str) -> bool:
        return name.startswith(prefix)

    return [
        Group(
            {
                (name.removeprefix(prefix), axis): positions
                for (name, axis), positions in group.members.items()
                if own(name)
            },
            frozenset((name.removeprefix(prefix), axis) for name, axis in group.readers),
            group.fixed,
        )
        for group in groups
        if any(own(name) for name, _ in group.members)
    ]


def tie_scores(
    scored: Mapping[str, Array], groups: Sequence[Group], *, criterion: str
) -> dict[str, Array]:
    """Scores of filters replaced by those of their channels: alike for all that live and die.

    The score of a channel is that of all filters that put it out: for ``l2`` the root of the sum of
    squares, hence the norm of them together, and else the sum. Ranks and masks made of tied scores
    agree over a group.

    Args:
      scored: [filters] by kernel, from ``criteria.scores``.
      groups: of the parameters.
      criterion: by which was scored.

    Returns:
      the same without kernels whose filters cannot be removed, or whose channels are put out by
      a kernel that was not scored as well: what is not selected stays whole.

    Raises:
      UsageError: nothing is left.
    """
    power = 2 if criterion == "l2" else 1
    tied = {}
    for group in groups:
        kernels = kernels_of(group, scored)
        if group.fixed or not kernels or unscored(group, scored):
            continue
        total = sum(scored[name][positions] ** power for name, positions in kernels.items())
        for name, positions in kernels.items():
            score = jnp.asarray(total ** (1 / power), scored[name].dtype)
            tied[name] = tied.get(name, scored[name]).at[positions].set(score)
    if not tied:
        raise UsageError("scope is 'group', but no channel can be removed; take scope 'local'")
    return {name: tied[name] for name in scored if name in tied}


def kernels_of(group: Group, scored: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """The kernels that put the channels out, and at which of their filters."""
    return {
        name: positions[:, 0]
        for (name, axis), positions in group.members.items()
        if name in scored and (name, axis) not in group.readers and axis > 0
    }


def unscored(group: Group, scored: Mapping[str, Array]) -> list[str]:
    """Arrays of several axes that put the channels out and were not scored."""
    return [name for name, axis in group.writers if axis > 0 and name not in scored]


def norms_of(groups: Sequence[Group]) -> Callable[[str], list[str]]:
    """From a kernel's name to those of all norms that scale and shift its channels.

    For ``masking.masks``. Raises UsageError where a norm has them in another order.
    """

    def norms(kernel: str) -> list[str]:
        found = []
        for group in groups:
            writers = group.writers
            own = [group.members[member] for member in writers if member[0] == kernel]
            for name, axis in writers if own else ():
                path, _, leaf = name.rpartition("/")
                if leaf != "scale":
                    continue
                if not np.array_equal(group.members[name, axis], own[0]):
                    raise UsageError(
                        f"{path} has the channels of {kernel} in another order; "
                        "remove them with compaction.compact and a cut of your own"
                    )
                found.append(path)
        return found

    return norms
