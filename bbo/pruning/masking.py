"""Masks: what is kept of a network, and what dies with a filter."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from bbo import trees
from bbo.pruning.criteria import norm_of
from bbo.settings.catalog import MEANINGS
from bbo.types import Array, Masks, Params, UsageError, require_one_of


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
        there is none, and ``()`` says that there is none.

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
    has_norms = any(name.endswith("/scale") for name in leaves)
    if scales and has_norms and not scales.keys() & leaves.keys():
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

    Raises:
      UsageError: a parameter is no array.

    >>> apply_masks({"kernel": jnp.array([1.0, 2.0])}, {"kernel": jnp.array([True, False])})
    {'kernel': Array([1., 0.], dtype=float32)}
    """

    def masked(name: str, w: Array, keep: Array) -> Array:
        trees.require_array(name, w, "masked")
        return jnp.where(keep, w, jnp.zeros_like(w))

    return trees.map_named(masked, params, masks)
