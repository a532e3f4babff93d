"""Evaluation of a network: loss, accuracy, calibration and accuracy by class."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bbo.training.devices import AHEAD
from bbo.types import Array

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
        jax.block_until_ready(collected[-AHEAD:][0])
    read = jax.device_get(collected)
    total = {key: np.sum([part[key] for part in read], axis=0, dtype=np.float64) for key in read[0]}
    numbers = {key: float(total[key] / total["count"]) for key in ("loss", "top1", "top5")}
    numbers["ece"] = float(np.sum(np.abs(total["gap"])) / total["count"])
    hits, counts = np.atleast_1d(total["class_top1"]), np.atleast_1d(total["class_count"])
    shares = [float(n / of) if of else math.nan for n, of in zip(hits, counts, strict=True)]
    return numbers | {f"class_top1{CLASS}{i}": round(share, 4) for i, share in enumerate(shares)}
