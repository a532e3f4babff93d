"""Pruning decisions in three steps: scores -> ranks -> masks.

Scores say how much each unit (weight, 2-D kernel or filter) matters. Ranks order the units that
compete with each other; they are computed once per network. A mask keeps the units whose rank
reaches a count, and the count is an argument: one compiled program serves every sparsity.

Scores, ranks and counts are dicts by parameter name; masks are a tree like the parameters.
Kernels are ``[kh, kw, in, out]``, filters on the last axis.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.catalog import CRITERIA, FILTER_CRITERIA, MEANINGS, SCOPES, UNITS
from bbo.types import Array, Masks, Params, Rng, UsageError, require, require_one_of


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
    return jnp.abs(_wide(leaves[scale]))


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
        axes, leaf = _unit_axes(leaf, granularity), _wide(leaf)
        if criterion == "taylor":
            return jnp.square(jnp.sum(leaf * _wide(slopes[name]), axis=axes))
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


def _wide(x: Array) -> Array:
    """In float32 at least: in bfloat16 most norms would be tied."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def _random(key: Rng, leaf: Array, axes: tuple[int, ...]) -> Array:
    shape = leaf.shape[len(axes) :]
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def _rank(values: Array) -> Array:
    """How many of ``values`` [n] are at most as large, less one: ties share the highest rank."""
    return jnp.searchsorted(jnp.sort(values), values, side="right") - 1


def _competes_in_filter(values: Array, scope: str) -> bool:
    return scope == "local" and values.ndim > 1


def ranks(scored: Mapping[str, Array], *, scope: str = "local") -> dict[str, Array]:
    """Order of each unit among those it competes with, 0 for the lowest score.

    Ties share the highest of their ranks, so that a mask keeps every unit whose score is at
    least the score at the dropped count, as the authors' program does.

    Args:
      scored: from ``scores``.
      scope: ``local``: filters within their layer, kernels and weights within their filter (the
        paper); ``layer``: within the parameter; ``global``: all together, where the best unit of
        each parameter, and any tied with it, is never dropped; ``group``: filters as in ``local``,
        of scores that ``grouping.tie_scores`` has made.

    Returns:
      int32 arrays of the shapes of ``scored``.
    """
    require_one_of(SCOPES, "scope", scope)
    if scope == "global":
        joined = _rank(jnp.concatenate([values.ravel() for values in scored.values()]))
        bounds = [0]
        for values in scored.values():
            bounds.append(bounds[-1] + values.size)
        split = {
            name: joined[start : start + values.size].reshape(values.shape)
            for start, (name, values) in zip(bounds, scored.items(), strict=False)
        }
        return {
            name: jnp.where(rank == rank.max(), bounds[-1], rank) for name, rank in split.items()
        }
    ranked = {}
    for name, values in scored.items():
        if _competes_in_filter(values, scope):
            flat = values.reshape(-1, values.shape[-1])
            ranked[name] = jax.vmap(_rank, in_axes=1, out_axes=1)(flat).reshape(values.shape)
        else:
            ranked[name] = _rank(values.ravel()).reshape(values.shape)
    return ranked


def drop_counts(
    scored: Mapping[str, Array], sparsity: float, *, scope: str = "local"
) -> dict[str, int]:
    """How many units to drop of each competition: ``int(n * sparsity)``, in Python's arithmetic.

    Args:
      scored: from ``scores`` (only shapes are used).
      sparsity: fraction to remove, in [0, 1].
      scope: as in ``ranks``.

    Raises:
      UsageError: sparsity out of range.
    """
    require(0 <= sparsity <= 1, "sparsity", sparsity, "in [0, 1]")
    require_one_of(SCOPES, "scope", scope)
    total = sum(math.prod(values.shape) for values in scored.values())
    counts = {}
    for name, values in scored.items():
        competitors = math.prod(values.shape)
        if _competes_in_filter(values, scope):
            competitors //= values.shape[-1]
        counts[name] = int((total if scope == "global" else competitors) * sparsity)
    return counts


def masks(
    params: Params,
    ranked: Mapping[str, Array],
    counts: Mapping[str, Array | int],
    *,
    meaning: str = "clean",
    norm: Callable[[str], str | Sequence[str]] = norm_of,
) -> Masks:
    """Which parameters are kept.

    Args:
      params: the network.
      ranked: from ``ranks``.
      counts: from ``drop_counts``; may be traced.
      meaning: of a dropped filter. ``published``: its kernel is zero, and the channel goes on
        emitting a constant. ``clean``: its bias and the scale and shift of its norm are zero too,
        and it emits zero. The same for kernels and weights.
      norm: for ``clean``, from a kernel's name to that of the norm layer behind it, or to those of
        all that read its channels; their leaves are ``scale`` and ``bias``. A norm that is not
        there is none.

    Returns:
      a tree like ``params`` of bool arrays, True to keep, that broadcast to the parameters.

    Raises:
      UsageError: ``clean`` in a network with norms, none of which ``norm`` finds.
    """
    require_one_of(MEANINGS, "meaning", meaning)
    keep = {name: rank >= counts[name] for name, rank in ranked.items()}
    if meaning == "clean":
        keep |= _followers(trees.flatten(params), keep, norm)
    return trees.map_named(lambda name, _: keep.get(name, jnp.ones((), bool)), params)


def _followers(
    leaves: Mapping[str, Array],
    keep: Mapping[str, Array],
    norm: Callable[[str], str | Sequence[str]],
) -> dict[str, Array]:
    """The masks of what dies with a filter, by name."""
    filters = {name: kept for name, kept in keep.items() if kept.ndim == 1 < leaves[name].ndim}
    behind: dict[str, Array] = {}
    for name, kept in filters.items():
        norms = norm(name)
        behind |= dict.fromkeys([norms] if isinstance(norms, str) else norms, kept)
    scales = {f"{name}/scale": kept for name, kept in behind.items()}
    if filters and any(name.endswith("/scale") for name in leaves) and not scales.keys() & leaves:
        raise UsageError(
            "meaning 'clean' zeroes the norm behind a pruned filter, but none of the norms is "
            f"found: {next(iter(filters))} has no {next(iter(scales))}; give masks the argument "
            "norm, a function from a kernel's name to its norm's, or take meaning 'published'"
        )
    biases = {f"{name.rpartition('/')[0]}/bias": kept for name, kept in filters.items()}
    shifts = {f"{name}/bias": kept for name, kept in behind.items()}
    return biases | scales | shifts


def apply_masks(params: Params, masks: Masks) -> Params:
    """The parameters with everything dropped set to zero (also where it was not finite).

    >>> apply_masks({"kernel": jnp.array([1.0, 2.0])}, {"kernel": jnp.array([True, False])})
    {'kernel': Array([1., 0.], dtype=float32)}
    """
    return jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, masks)


def kept_fraction(ranked: Mapping[str, Array], counts: Mapping[str, Array | int]) -> Array:
    """Share of all units that the masks keep: ``1 -`` the achieved sparsity."""
    kept = sum(jnp.sum(rank >= counts[name]) for name, rank in ranked.items())
    return kept / sum(rank.size for rank in ranked.values())
