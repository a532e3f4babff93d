"""Scores: how much each unit (weight, 2-D kernel or filter) of a network matters."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.settings.catalog import CRITERIA, FILTER_CRITERIA, UNITS
from bbo.trees import wide
from bbo.types import Array, Params, Rng, UsageError, require, require_one_of


def convolutions(name: str, leaf: Any) -> bool:
    """Whether a parameter is the kernel of a convolution, 1x1 included."""
    del name
    return getattr(leaf, "ndim", 0) >= 4


def eligible(params: Params, on: trees.Selector = convolutions) -> dict[str, Array]:
    """The parameters that may be pruned, by name.

    Raises:
      UsageError: nothing is selected, or something selected has no filters to rank (rank 0).
    """
    selected = trees.flatten(trees.select(params, on))
    chosen = {name: leaf for name, leaf in trees.flatten(params).items() if selected[name]}
    for name, leaf in chosen.items():
        if leaf.ndim == 0:
            raise UsageError(f"{name} is a single number; select parameters that have filters")
    return chosen


def norm_of(kernel_name: str) -> str:
    """Name of the norm layer that reads this convolution's output and nothing else, if it exists.

    The networks of ``bbo.models`` call it after the convolution.

    >>> norm_of("stage1/conv1/kernel")
    'stage1/conv1_norm'
    """
    return kernel_name.rpartition("/")[0] + "_norm"


def _norm_scales(params: Params, name: str) -> Array:
    leaves = trees.flatten(params)
    scale = norm_of(name) + "/scale"
    if scale not in leaves:
        raise UsageError(
            f"criterion 'norm_scale' needs a norm layer behind every convolution, and {name} "
            f"has none ({scale}); select others (prune_on) or another criterion"
        )
    return jnp.abs(wide(leaves[scale]))


def _unit_axes(leaf: Array, granularity: str) -> tuple[int, ...]:
    """The axes that make up one unit."""
    if granularity == "weight" or leaf.ndim == 1:
        return ()
    return tuple(range(leaf.ndim - {"filter": 1, "kernel": 2}[granularity]))


def _distance_to_others(kernel: Array) -> Array:
    """Sum of Euclidean distances from each filter to all others: small near the median."""
    filters = kernel.reshape(-1, kernel.shape[-1])
    squares = jnp.sum(jnp.square(filters), axis=0)
    apart = squares[:, None] + squares[None, :] - 2 * filters.T @ filters
    return jnp.sum(jnp.sqrt(jnp.maximum(apart, 0)), axis=0)


def scores(
    params: Params,
    *,
    criterion: str,
    granularity: str,
    on: trees.Selector = convolutions,
    gradients: Params | None = None,
    rng: Rng = None,
) -> dict[str, Array]:
    """Importance of every unit; the lowest are pruned first.

    Args:
      params: the network.
      criterion: ``l1``, ``l2`` (norm of the unit); ``norm_scale`` (magnitude of the BatchNorm
        scale behind the filter; Liu et al. 2017, arXiv 1708.06519); ``taylor`` (squared
        first-order change of the loss, ``(sum w dL/dw)**2``; Molchanov et al. 2019, arXiv
        1906.10771; average the scores over mini-batches); ``geometric_median`` (distance to the
        other filters; He et al. 2019, arXiv 1811.00250); ``random``.
      granularity: ``weight``, ``kernel`` or ``filter``.
      on: which parameters; vectors among them (norm scales) are ranked by magnitude.
      gradients: of the loss, like ``params``; for ``taylor``.
      rng: for ``random``.

    Returns:
      by name: ``[out]`` for filters, ``[in, out]`` for kernels, the kernel's shape for weights.

    Raises:
      UsageError: a criterion that needs what is not there.
    """
    require_one_of(CRITERIA, "criterion", criterion)
    require_one_of(UNITS, "granularity", granularity)
    if criterion in FILTER_CRITERIA:
        require(granularity == "filter", "granularity", granularity, f"'filter' for {criterion}")
    for name, needs, given in (("taylor", "gradients", gradients), ("random", "rng", rng)):
        if criterion == name and given is None:
            raise UsageError(f"criterion {name!r} needs the argument {needs}")
    slopes = trees.flatten(gradients) if criterion == "taylor" else {}

    def score(name: str, leaf: Array) -> Array:
        axes, leaf = _unit_axes(leaf, granularity), wide(leaf)
        if criterion == "taylor":
            return jnp.square(jnp.sum(leaf * wide(slopes[name]), axis=axes))
        if criterion == "random":
            return _random(jax.random.fold_in(rng, zlib.crc32(name.encode())), leaf, axes)
        if criterion == "norm_scale" and leaf.ndim > 1:
            return _norm_scales(params, name)
        if criterion == "geometric_median" and leaf.ndim > 1:
            return _distance_to_others(leaf)
        if criterion == "l1" or not axes:
            return jnp.sum(jnp.abs(leaf), axis=axes)
        return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axes))

    return {name: score(name, leaf) for name, leaf in eligible(params, on).items()}


def _random(key: Rng, leaf: Array, axes: tuple[int, ...]) -> Array:
    shape = leaf.shape[len(axes) :]
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)
