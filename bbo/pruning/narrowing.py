"""A pruned network made narrow: of fixed sizes, with weights and an order that may be traced."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from bbo import trees
from bbo.compaction.channels import Group, Member
from bbo.types import Array, PyTree


def narrow(
    variables: PyTree,
    groups: Sequence[Group],
    ranked: Mapping[str, Array],
    counts: Mapping[str, int],
    *,
    tied: bool = False,
) -> PyTree:
    """The arrays without the filters of lowest rank, and without all that dies with them.

    Of filters of equal rank those in front stay. What cannot be removed stays as it is: channels
    that a kernel without ranks puts out as well, and, unless ranks are tied, those of several.

    Args:
      variables: arrays that may be traced, in which what is dropped is zero already.
      groups: of the function of these variables, from ``find_channels``.
      ranked: [filters] by the kernel's name in ``variables``, from ``ranking.ranks``.
      counts: how many filters to drop of each kernel, from ``ranking.drop_counts``.
      tied: ranks agree over the kernels of a group, see ``units.by_kernel``.

    >>> from bbo.compaction import find_channels
    >>> weights = {"in": jnp.array([[3.0, 1.0, 2.0]]), "out": jnp.array([[5.0], [6.0], [7.0]])}
    >>> groups = find_channels(lambda w, x: x @ w["in"] @ w["out"], weights, jnp.ones(1)).groups
    >>> small = narrow(weights, groups, {"in": jnp.array([2, 0, 1])}, {"in": 2})
    >>> small["in"].tolist(), small["out"].tolist()
    ([[3.0]], [[5.0]])
    """
    leaves = trees.flatten(variables)
    kept: dict[Member, Array] = {}
    for group in groups:
        kernels = group.kernels(leaves)
        whole = all(
            positions.size == leaves[name].shape[axis]
            for (name, axis), positions in group.members.items()
        )
        alike = len(kernels) == 1 or (tied and kernels)
        if group.fixed or kernels.keys() - ranked.keys() or not (whole and alike):
            continue
        name, filters = next(iter(kernels.items()))
        units = jnp.argsort(ranked[name][filters[:, 0]], descending=True)[
            : group.size - counts[name]
        ]
        for member, positions in group.members.items():
            kept[member] = jnp.sort(jnp.asarray(positions)[units].ravel())

    def taken(name: str, leaf: Array) -> Array:
        for axis in range(jnp.ndim(leaf)):
            if (name, axis) in kept:
                leaf = jnp.take(leaf, kept[name, axis], axis=axis, unique_indices=True, mode="clip")
        return leaf

    return trees.map_named(taken, variables)
