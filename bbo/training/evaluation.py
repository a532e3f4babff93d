"""Evaluation of a network, and of a network pruned at every intensity."""

import collections
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from bbo import pruning, sharding, trees
from bbo.config import PruningConfig
from bbo.types import Array, Masks, Params, Preempted, PyTree, UsageError

CONFIDENCE_BINS = 15
"""Of the calibration error: of equal width, each with its upper edge."""
CLASS = "/"
"""Stands between the name of a number and the class that it is of: ``class_top1/3``."""


def batch_sums(logits: Array, labels: Array, valid: Array) -> dict[str, Array]:
    """Sums over the valid examples of a batch, to be added up over batches.

    Args:
      logits: [n, classes].
      labels: int32 [n].
      valid: bool [n]; False for the padding of a last batch.

    Returns:
      ``count``, ``loss`` (cross-entropy, that is the negative log-likelihood), ``top1`` and
      ``top5`` (numbers of hits); ``gap`` [15]: confidence (the largest probability) less hits, by
      bin of the confidence; ``class_count`` and ``class_top1`` [classes]: examples and hits.
    """
    weight = valid.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # Not below counts as above: a network that says nothing, or NaN, gets no credit.
    above = jnp.sum(~(logits < of_label), axis=-1)
    hits = (valid & (above <= 1)).astype(jnp.float32)
    confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    bins = jnp.clip(jnp.ceil(confidence * CONFIDENCE_BINS) - 1, 0, CONFIDENCE_BINS - 1)
    return {
        "count": jnp.sum(weight),
        "loss": jnp.sum(losses * weight),
        "top1": jnp.sum(hits),
        "top5": jnp.sum(valid & (above <= 5), dtype=jnp.float32),
        "gap": _sums_by(bins, CONFIDENCE_BINS, confidence * weight - hits),
        "class_count": _sums_by(labels, logits.shape[-1], weight),
        "class_top1": _sums_by(labels, logits.shape[-1], hits),
    }


def _sums_by(group: Array, number: int, values: Array) -> Array:
    """Sums [number] of values [n] by group [n]; in a fixed order, unlike a scatter on GPU."""
    chosen = group[:, None] == jnp.arange(number, dtype=group.dtype)
    return jnp.sum(jnp.where(chosen, values[:, None], 0.0), axis=0)


def evaluate(sums: Callable[[Any], dict[str, Array]], batches: Iterable[Any]) -> dict[str, float]:
    """Means of ``loss``, ``top1`` and ``top5`` (fractions), calibration and accuracy by class.

    Args:
      sums: ``batch -> batch_sums(...)``, compiled.
      batches: of one split.

    Returns:
      those means; ``ece``, the expected calibration error (Guo et al. 2017, "On Calibration of
      Modern Neural Networks", equation 3); and ``class_top1/<class>``, NaN for a class of which
      there is no example.
    """
    collected = []
    for batch in batches:
        collected.append(sums(batch))
        jax.block_until_ready(collected[-sharding.AHEAD :][0])
    read = jax.device_get(collected)
    total = {key: np.sum([part[key] for part in read], axis=0, dtype=np.float64) for key in read[0]}
    numbers = {key: float(total[key] / total["count"]) for key in ("loss", "top1", "top5")}
    numbers["ece"] = float(np.sum(np.abs(total["gap"])) / total["count"])
    hits, counts = np.atleast_1d(total["class_top1"]), np.atleast_1d(total["class_count"])
    shares = [float(n / of) if of else math.nan for n, of in zip(hits, counts, strict=True)]
    return numbers | {f"class_top1{CLASS}{i}": round(share, 4) for i, share in enumerate(shares)}


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
    norms: Callable[[str], str | Sequence[str]] = pruning.norm_of
    """From a kernel's name to the norms that die with its filters, see ``pruning.masks``."""
    compact: Callable[[PyTree], dict[str, float]] = lambda variables: {}
    """Variables of a pruned network to what it costs without its dead channels: more columns."""


def pruning_curve(
    variables: PyTree, config: PruningConfig, tools: CurveTools, *, skip: int = 0
) -> Iterator[dict[str, Any]]:
    """Prunes and evaluates at every sparsity: one row for each granularity, sparsity and recovery.

    All sparsities of a granularity go through one compiled program; ranks are computed once.

    Args:
      variables: ``params`` and ``batch_stats`` of the trained network.
      config: what to prune, and how.
      tools: see there.
      skip: rows that are known already; the first to be left out.

    Yields:
      rows of the curve: settings, ``sparsity`` requested and ``achieved_sparsity`` (fraction of
      the units), ``units_kept``, ``params_kept``, ``macs_kept`` (fractions; a multiply-add counts
      as kept if its weight is), the columns of ``tools.evaluate``, with those of all classes
      joined to one; and ``error``: empty, or why the point could not be measured: the columns of
      ``tools.evaluate`` are missing then, and those of what is kept if it could not be pruned.
    """
    points = itertools.product(config.granularity, config.sparsities, config.recovery)
    left = itertools.islice(points, skip, None)
    for granularity, of_granularity in itertools.groupby(left, operator.itemgetter(0)):
        score = functools.partial(_scored, variables, granularity, config, tools)
        prune, why = _attempt(score)
        for sparsity, of_sparsity in itertools.groupby(of_granularity, operator.itemgetter(1)):
            found, error = _attempt(functools.partial(prune, sparsity)) if prune else (None, why)
            pruned, kept = found or (None, {})
            for _, _, recovery in of_sparsity:
                mend = tools.recoveries[recovery]
                settings = {
                    "criterion": config.criterion,
                    "granularity": granularity,
                    "scope": config.scope,
                    "meaning": config.meaning,
                    "recovery": recovery,
                    "sparsity": sparsity,
                }
                measured = _measured(pruned, mend, tools.evaluate) if found else {"error": error}
                yield settings | kept | measured


def _scored(
    variables: PyTree, granularity: str, config: PruningConfig, tools: CurveTools
) -> Callable[[float], tuple[PyTree, dict[str, float]]]:
    """``sparsity -> (pruned variables, columns of what is kept)`` for one granularity."""
    scored = tools.scores(granularity)
    ranked = jax.jit(lambda s: pruning.ranks(s, scope=config.scope))(scored)
    program = _pruner(config.meaning, tools)

    def prune(sparsity: float) -> tuple[PyTree, dict[str, float]]:
        counts = pruning.drop_counts(scored, sparsity, scope=config.scope)
        params, shares = program(variables["params"], ranked, _as_arrays(counts))
        kept = {key: float(value) for key, value in shares.items()}
        pruned = variables | {"params": params}
        return pruned, {"achieved_sparsity": 1 - kept["units_kept"]} | kept | tools.compact(pruned)

    return prune


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What ``work`` gives, or None and why: the points after it are still worth having."""
    try:
        return work(), ""
    except (Preempted, UsageError):
        raise
    except Exception as error:  # of the device, out of memory: whatever it is, it is recorded
        if jax.process_count() > 1:  # the others are in the midst of this point, and would wait
            raise
        logging.warning("a part of the pruning curve failed", exc_info=True)
        return None, f"{type(error).__name__}: {error}".partition("\n")[0].strip()


def _measured(
    pruned: PyTree,
    mend: Callable[[PyTree], PyTree],
    measure: Callable[[PyTree], dict[str, float]],
) -> dict[str, Any]:
    """The numbers of one point, or an error instead."""
    numbers, error = _attempt(lambda: measure(mend(pruned)))
    if error:
        return {"error": error}
    # A class without examples has no accuracy, and that is no failure.
    wrong = [
        f"{name} is {value}"
        for name, value in numbers.items()
        if CLASS not in name and not math.isfinite(value)
    ]
    return {"error": ", ".join(wrong)} if wrong else join_classes(numbers) | {"error": ""}


def join_classes(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers, with those of single classes as one text, in the order of the classes.

    >>> join_classes({"top1": 0.5, "class_top1/0": 1.0, "class_top1/1": 0.25})
    {'top1': 0.5, 'class_top1': '1;0.25'}
    """
    joined, texts = {}, collections.defaultdict(list)
    for key, value in numbers.items():
        name, of_class, _ = key.partition(CLASS)
        if of_class:
            texts[name].append("" if math.isnan(value) else f"{value:.4g}")
        joined[name] = ";".join(texts[name]) if of_class else value
    return joined


def _as_arrays(counts: Mapping[str, int]) -> dict[str, Array]:
    return {name: jnp.asarray(count, jnp.int32) for name, count in counts.items()}


def _pruner(meaning: str, tools: CurveTools) -> Callable[..., tuple[Params, dict]]:
    """Compiled ``(params, ranks, counts) -> (pruned params, fractions kept)``."""

    @jax.jit
    def prune(params: Params, ranked: dict, counts: dict) -> tuple[Params, dict[str, Array]]:
        masks = pruning.masks(params, ranked, counts, meaning=meaning, norm=tools.norms)
        kept = {"units_kept": pruning.kept_fraction(ranked, counts)}
        return pruning.apply_masks(params, masks), kept | kept_costs(params, masks, tools.macs)

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
