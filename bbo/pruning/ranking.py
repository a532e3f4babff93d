"""Ranks: the order of the units that compete with each other, and how many of them go."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bbo.settings.catalog import SCOPES
from bbo.types import Array, require, require_one_of


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
        of whole channels, see ``units.channel_scores``.

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
    scored: Mapping[str, Array], sparsity: float | Array, *, scope: str = "local"
) -> dict[str, Any]:
    """How many units to drop of each competition: ``int(n * sparsity)``, in Python's arithmetic.

    Args:
      scored: from ``scores`` (only shapes are used).
      sparsity: fraction to remove, in [0, 1]; of one that is traced, so are the counts, int32.
      scope: as in ``ranks``.

    Raises:
      UsageError: sparsity out of range.
    """
    if not isinstance(sparsity, jax.Array):
        require(0 <= sparsity <= 1, "sparsity", sparsity, "in [0, 1]")
    require_one_of(SCOPES, "scope", scope)
    total = sum(math.prod(values.shape) for values in scored.values())
    counts = {}
    for name, values in scored.items():
        competitors = math.prod(values.shape)
        if _competes_in_filter(values, scope):
            competitors //= values.shape[-1]
        count = (total if scope == "global" else competitors) * sparsity
        counts[name] = count.astype(jnp.int32) if isinstance(count, jax.Array) else int(count)
    return counts


def kept_fraction(ranked: Mapping[str, Array], counts: Mapping[str, Array | int]) -> Array:
    """Share of all units that the masks keep: ``1 -`` the achieved sparsity."""
    kept = sum(jnp.sum(rank >= counts[name]) for name, rank in ranked.items())
    return kept / sum(rank.size for rank in ranked.values())
