"""Evaluation of a network, and of a network pruned at every intensity."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bbo import pruning, trees
from bbo.config import PruningConfig
from bbo.types import Array, Masks, Params, PyTree


def batch_sums(logits: Array, labels: Array, valid: Array) -> dict[str, Array]:
    """Sums over the valid examples of a batch, to be added up over batches.

    Args:
      logits: [n, classes].
      labels: int32 [n].
      valid: bool [n]; False for the padding of a last batch.

    Returns:
      ``count``, ``loss`` (cross-entropy), ``top1`` and ``top5`` (numbers of hits).
    """
    weight = valid.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # Not below counts as above: a network that says nothing, or NaN, gets no credit.
    above = jnp.sum(~(logits < of_label), axis=-1)
    return {
        "count": jnp.sum(weight),
        "loss": jnp.sum(losses * weight),
        "top1": jnp.sum(valid & (above <= 1), dtype=jnp.float32),
        "top5": jnp.sum(valid & (above <= 5), dtype=jnp.float32),
    }


def evaluate(sums: Callable[[Any], dict[str, Array]], batches: Iterable[Any]) -> dict[str, float]:
    """Means of ``loss``, ``top1`` and ``top5`` (fractions) over all batches.

    Args:
      sums: ``batch -> batch_sums(...)``, compiled.
      batches: of one split.
    """
    collected = [sums(batch) for batch in batches]  # dispatched; nothing waits until the end
    totals = {key: sum(float(part[key]) for part in collected) for key in collected[0]}
    count = totals.pop("count")
    return {key: total / count for key, total in totals.items()}


class CurveTools(NamedTuple):
    """What a pruning curve needs from its caller."""

    scores: Callable[[str], dict[str, Array]]
    """Importance of the units, by granularity."""
    recoveries: Mapping[str, Callable[[PyTree], PyTree]]
    """Variables of a pruned network to mended ones, by name."""
    evaluate: Callable[[PyTree], dict[str, float]]
    """Variables to measured numbers, which become columns."""
    macs: Mapping[str, int]
    """Multiply-adds by kernel name."""


def pruning_curve(
    variables: PyTree, config: PruningConfig, tools: CurveTools
) -> Iterator[dict[str, Any]]:
    """Prunes and evaluates at every sparsity: one row for each granularity, sparsity and recovery.

    All sparsities of a granularity go through one compiled program; ranks are computed once.

    Args:
      variables: ``params`` and ``batch_stats`` of the trained network.
      config: what to prune, and how.
      tools: see there.

    Yields:
      rows of the curve: settings, ``sparsity`` requested and ``achieved_sparsity`` (fraction of
      the units), ``units_kept``, ``params_kept``, ``macs_kept`` (fractions; a multiply-add counts
      as kept if its weight is), and the columns of ``tools.evaluate``.
    """
    for granularity in config.granularity:
        scored = tools.scores(granularity)
        ranked = jax.jit(lambda s: pruning.ranks(s, scope=config.scope))(scored)
        prune = _pruner(config.meaning, tools.macs)
        for sparsity in config.sparsities:
            counts = pruning.drop_counts(scored, sparsity, scope=config.scope)
            params, kept = prune(variables["params"], ranked, _as_arrays(counts))
            kept = {key: float(value) for key, value in kept.items()}
            for recovery in config.recovery:
                mended = tools.recoveries[recovery](variables | {"params": params})
                yield {
                    "criterion": config.criterion,
                    "granularity": granularity,
                    "scope": config.scope,
                    "meaning": config.meaning,
                    "recovery": recovery,
                    "sparsity": sparsity,
                    "achieved_sparsity": 1 - kept["units_kept"],
                    **kept,
                    **tools.evaluate(mended),
                }


def _as_arrays(counts: Mapping[str, int]) -> dict[str, Array]:
    return {name: jnp.asarray(count, jnp.int32) for name, count in counts.items()}


def _pruner(meaning: str, macs: Mapping[str, int]) -> Callable[..., tuple[Params, dict]]:
    """Compiled ``(params, ranks, counts) -> (pruned params, fractions kept)``."""

    @jax.jit
    def prune(params: Params, ranked: dict, counts: dict) -> tuple[Params, dict[str, Array]]:
        masks = pruning.masks(params, ranked, counts, meaning=meaning)
        kept = {"units_kept": pruning.kept_fraction(ranked, counts)}
        return pruning.apply_masks(params, masks), kept | kept_costs(params, masks, macs)

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
