"""Noise in proportion to what it falls on: Dropout, DropConnect, Shakeout, Targeted Dropout."""

import jax.numpy as jnp

from bbo import trees
from bbo.noise.bernoulli import draw_bernoulli
from bbo.noise.regulariser import (
    Regulariser,
    _on_activations,
    _on_weights,
    check_rate,
    perturb_selected,
    spatial_kernels,
)
from bbo.noise.targeting import weakest
from bbo.trees import wide
from bbo.types import Array, Rng


def dropconnect(*, rate: float | Array, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w * keep / (1 - rate)``, one draw a step."""
    return Regulariser(weights=_on_weights(drop, rate=rate, on=on))


def shakeout(*, rate: float | Array, c: float, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w + xi (w + c sign(w))``, one draw a step: an L0 + L1 + L2 penalty."""
    return Regulariser(weights=_on_weights(lambda w, xi: shake(w, xi, c), rate=rate, on=on))


def dropout(*, rate: float | Array, target_fraction: float = 1.0) -> Regulariser:
    """``x * keep / (1 - rate)`` on activations, of the weakest channel maps only if targeted."""
    return Regulariser(
        activations=_on_activations(drop, rate=rate, target_fraction=target_fraction)
    )


def targeted_dropout(
    *,
    rate: float | Array,
    target_fraction: float,
    target_unit: str = "weight",
    on: trees.Selector = spatial_kernels,
) -> Regulariser:
    """Units among the weakest are set to zero with probability ``rate``, the others left alone.

    Nothing is rescaled: a targeted weight has mean ``(1 - rate) w`` and variance
    ``rate (1 - rate) w**2``. A unit (weight, kernel or filter) is dropped in one piece.

    References: Gomez et al. 2019 (arXiv 1905.13678), weight and unit dropout.
    """

    check_rate(rate)

    def transform(key: Rng, w: Array) -> Array:
        units = {"filter": w.shape[-1:], "kernel": w.shape[-2:], "weight": w.shape}[target_unit]
        dropped = draw_bernoulli(key, rate, units) & weakest(w, target_fraction, target_unit)
        return jnp.where(dropped, jnp.zeros_like(w), w)

    return Regulariser(weights=lambda rng, params: perturb_selected(rng, params, on, transform))


def drop(x: Array, xi: Array) -> Array:
    """``x * (1 + xi)``: zero or ``x / (1 - rate)``; Dropout and DropConnect."""
    return (wide(x) * (1 + wide(xi))).astype(x.dtype)


def shake(w: Array, xi: Array, c: float) -> Array:
    """``w + xi * (w + c * sign(w))`` (Shakeout)."""
    return (wide(w) + wide(xi) * (wide(w) + c * jnp.sign(wide(w)))).astype(w.dtype)
