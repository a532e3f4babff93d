"""A network pruned at any sparsity, and what it then keeps."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.pruning import masking
from bbo.pruning.masking import apply_masks
from bbo.pruning.ranking import kept_fraction
from bbo.types import Array, Masks, Params


def _as_arrays(counts: Mapping[str, int]) -> dict[str, Array]:
    return {name: jnp.asarray(count, jnp.int32) for name, count in counts.items()}


def _pruner(
    meaning: str, norms: Callable, macs: Mapping[str, int]
) -> Callable[..., tuple[Params, dict]]:
    """Compiled ``(params, ranks, counts) -> (pruned params, fractions kept)``."""

    @jax.jit
    def prune(params: Params, ranked: dict, counts: dict) -> tuple[Params, dict[str, Array]]:
        masks = masking.masks(params, ranked, counts, meaning=meaning, norm=norms)
        kept = {"units_kept": kept_fraction(ranked, counts)}
        return apply_masks(params, masks), kept | kept_costs(params, masks, macs)

    return prune


def kept_costs(params: Params, masks: Masks, macs: Mapping[str, int]) -> dict[str, Array]:
    """Fractions ``params_kept`` and ``macs_kept`` of a masked network.

    A multiply-add counts as kept if its weight is; what a removed filter spares the next layer
    is not counted here.
    """
    sizes = {name: leaf.size for name, leaf in trees.flatten(params).items()}
    shares = {
        name: jnp.mean(keep.astype(jnp.float32)) for name, keep in trees.flatten(masks).items()
    }
    return {"params_kept": _weighted(shares, sizes), "macs_kept": _weighted(shares, macs)}


def _weighted(shares: Mapping[str, Array], costs: Mapping[str, int]) -> Array:
    """Mean of the shares, weighted by costs whose sum may exceed 32 bits."""
    total = sum(costs.values())
    return sum((shares[name] * (cost / total) for name, cost in costs.items()), jnp.zeros(()))
