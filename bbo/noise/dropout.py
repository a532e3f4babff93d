"""Noise in proportion to what it falls on: Dropout and its relatives, targeted and nested."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.noise.bernoulli import draw_bernoulli
from bbo.noise.regulariser import (
    Regulariser,
    _on_activations,
    _on_weights,
    check_rate,
    draw_share,
    units_shape,
)
from bbo.noise.selection import Where, perturb_selected
from bbo.noise.targeting import weakest
from bbo.trees import wide
from bbo.types import Array, Params, Rng, require

Prune: TypeAlias = Callable[[Params, Array], Params]
"""``(params, share) -> params``: with the share of the units of lowest rank, in [0, 1), at zero."""


def dropconnect(
    *,
    rate: float | Array,
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w * keep / (1 - rate)``, one draw a step."""
    return Regulariser(weights=_on_weights(drop, rate=rate, where=Where(on, channels)))


def shakeout(
    *,
    rate: float | Array,
    c: float,
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w + xi (w + c sign(w))``, one draw a step: an L0 + L1 + L2 penalty; ``c >= 0``."""
    require(0 <= c < math.inf, "c", c, ">= 0, and finite")
    return Regulariser(
        weights=_on_weights(lambda w, xi: shake(w, xi, c), rate=rate, where=Where(on, channels))
    )


def dropout(
    *, rate: float | Array, target_fraction: float = 1.0, draw_bits: int = 32
) -> Regulariser:
    """``x * keep / (1 - rate)`` on activations, of the weakest channel maps only if targeted.

    Args:
      rate: probability of dropping, in (0, 1).
      target_fraction: share of the channel maps of an example that are perturbed, in (0, 1].
      draw_bits: random bits of a draw: 32; or 8, by which ``rate`` is the nearest multiple of 1/256
        and a quarter of the random numbers are needed.
    """
    how: dict[str, Any] = {"rate": rate, "target_fraction": target_fraction, "bits": draw_bits}
    return Regulariser(activations=_on_activations(drop, **how))


def targeted_dropout(
    *,
    rate: float | Array,
    target_fraction: float,
    target_unit: str = "weight",
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """Units among the weakest are set to zero with probability ``rate``, the others left alone.

    Nothing is rescaled: a targeted weight has mean ``(1 - rate) w`` and variance
    ``rate (1 - rate) w**2``. A unit (weight, kernel or filter) is dropped in one piece.

    References: Gomez et al. 2019 (arXiv 1905.13678), weight and unit dropout.
    """

    check_rate(rate)

    def transform(key: Rng, w: Array) -> Array:
        dropped = draw_bernoulli(key, rate, units_shape(w, target_unit))
        return jnp.where(dropped & weakest(w, target_fraction, target_unit), jnp.zeros_like(w), w)

    return Regulariser(
        weights=lambda rng, params: perturb_selected(rng, params, Where(on, channels), transform)
    )


def nested_dropping(
    *, target_fraction: float | Array, prune: Prune, shares: Sequence[float] = ()
) -> Regulariser:
    """The network as it is pruned, by another share at each step, even on [0, target_fraction).

    One share for all layers: what is left at a large share is left at every smaller one, so that a
    single training serves all sizes. Nothing is rescaled. A unit of rank r in [0, 1] is dropped
    with probability ``max(0, 1 - r / target_fraction)``, which is one less the mean of its factor.

    Args:
      target_fraction: the largest share, in (0, 1].
      prune: ``(params, share) -> params``, for instance of ``pruning.prune``. Its order may be of
        the weights, or fixed (ordered widths).
      shares: one of these is drawn instead, each as often.

    References: ours. Nested dropout (Rippel et al. 2014, arXiv 1402.0915) and slimmable networks
    (Yu and Huang 2019, arXiv 1903.05134) drop the last units in a fixed order.
    """
    if not isinstance(target_fraction, jax.Array):
        require(0 < target_fraction <= 1, "target_fraction", target_fraction, "in (0, 1]")

    def noisy(rng: Rng, params: Params) -> Params:
        drawn = draw_share(rng, 1.0 if shares else target_fraction)
        if shares:
            drawn = jnp.asarray(shares, jnp.float32)[(drawn * len(shares)).astype(jnp.int32)]
        return prune(params, drawn)

    return Regulariser(weights=noisy)


def drop(x: Array, xi: Array) -> Array:
    """``x * (1 + xi)``: zero or ``x / (1 - rate)``; Dropout and DropConnect."""
    return (wide(x) * (1 + wide(xi))).astype(x.dtype)


def shake(w: Array, xi: Array, c: float) -> Array:
    """``w + xi * (w + c * sign(w))`` (Shakeout)."""
    return (wide(w) + wide(xi) * (wide(w) + c * jnp.sign(wide(w)))).astype(w.dtype)
