"""Which parameters noise falls on, and in which layout their kernels are."""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.kernels import Kernel, described_leaf, find_kernels, removable_kernels
from bbo.types import Array, Params, Rng, UsageError


def spatial_kernels(name: str, leaf: Any) -> bool:
    """Whether a parameter is the kernel of a convolution larger than 1x1, as far as can be told.

    See ``trees.is_convolution`` for what is left out, and describe the network or give a selection
    where that is wrong.
    """
    return trees.is_convolution(name, leaf) and math.prod(leaf.shape[:-2]) > 1


class Where(NamedTuple):
    """Which parameters noise falls on."""

    on: trees.Selector | None = None
    """A regular expression on names or ``(name, leaf) -> bool``. None: without a description of the
    network those of ``spatial_kernels``, else all kernels whose filters can be removed."""
    channels: Channels | None = None
    """The description: which arrays are kernels, and which of their axes are what. None: kernels
    are ``[..., in, out]``."""


def perturb_selected(
    rng: Rng, params: Params, where: Where, transform: Callable[[Rng, Array], Array]
) -> Params:
    """Applies ``transform(key, kernel)`` to the selected leaves, each with a key of its own name.

    Args:
      rng: of the step.
      params: any tree.
      where: which leaves; with a description of the network each is given to ``transform`` as
        ``[*window, in, out]``, and of stacked kernels each by itself.
      transform: keeps the shape.

    Raises:
      UsageError: no parameter matches, or one without floating-point numbers; or the description is
        of other parameters.
    """
    chosen = _chosen(params, where)

    def perturb(name: str, leaf: Array) -> Array:
        if name not in chosen:
            return leaf
        trees.require_floating(name, leaf, "perturbed")
        key = jax.random.fold_in(rng, zlib.crc32(name.encode()))
        return _standard(chosen[name], transform)(key, leaf)

    return trees.map_named(perturb, params)


def selected_kernels(params: Params, where: Where) -> list[Array]:
    """The selected leaves, each as ``[n, *window, in, out]``: n kernels, most often one.

    Raises:
      UsageError: as ``perturb_selected``.
    """
    leaves, found = trees.flatten(params), []
    for name, kernel in _chosen(params, where).items():
        leaf = described_leaf(leaves, name)
        trees.require_floating(name, leaf, "penalised")
        found.append(leaf[None] if kernel is None else kernel.to_standard(leaf))
    return found


def _chosen(params: Params, where: Where) -> dict[str, Kernel | None]:
    """The names of the selected leaves, with their layouts where those are described."""
    if where.channels is not None:
        return {**described_kernels(params, where.channels, where.on)}
    on = spatial_kernels if where.on is None else where.on
    return {name: None for name, is_on in trees.flatten(trees.select(params, on)).items() if is_on}


def described_kernels(
    params: Params, channels: Channels, on: trees.Selector | None
) -> dict[str, Kernel]:
    """The kernels that a selection means, by a description of the network.

    Raises:
      UsageError: there are none, or the description is of other parameters.
    """
    kernels = removable_kernels(channels) if on is None else find_kernels(channels)
    leaves = trees.flatten(params)
    described = {name: described_leaf(leaves, name) for name in kernels}
    if not kernels:
        raise UsageError("channels tell of no kernel whose filters can be removed; pass on=")
    if on is not None:
        selected = trees.flatten(trees.select(described, on))
        kernels = {name: kernel for name, kernel in kernels.items() if selected[name]}
    for kernel in kernels.values():
        if kernel.ambiguous:
            raise UsageError(
                f"{kernel.name} is read in two ways: {kernel.ambiguous}, so that its filters are "
                "not defined; leave it out (on=)"
            )
    return kernels


def _standard(
    kernel: Kernel | None, transform: Callable[[Rng, Array], Array]
) -> Callable[[Rng, Array], Array]:
    """A transform of ``[*window, in, out]`` for a kernel in its own layout."""
    if kernel is None:
        return transform

    def in_layout(key: Rng, w: Array) -> Array:
        stacked = kernel.to_standard(w)
        if len(stacked) == 1:
            return kernel.from_standard(transform(key, stacked[0])[None])
        keys = jax.random.split(key, len(stacked))
        return kernel.from_standard(jax.vmap(transform)(keys, stacked))

    return in_layout
