"""Regularisers: sparsity-inducing noise on weights or activations.

Noise on weights is a function of the parameter tree, outside the model: draw ``noisy =
regulariser.weights(rng, params)`` once per step, then apply the model to ``noisy``. One draw for
the whole mini-batch is what makes Bridgeout Batch Bridgeout, and it needs no help from the model.

Throughout, ``xi`` is a centred Bernoulli draw with ``Var xi = rate / (1 - rate)``; it and the
formulas are those of ``bbo.perturb``.

References: Khan & Stavness 2020 (arXiv 2009.10893) for Batch Bridgeout and targeting;
arXiv 1804.08042 (Bridgeout); arXiv 1904.08050 (Sparseout).
"""

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.config import NoiseConfig
from bbo.drawing import draw_bernoulli
from bbo.perturb import (
    bridgeout_perturb,
    check_rate,
    draw_keep,
    drop,
    group_perturb,
    perturb_kept,
    shake,
    weakest,
    weakest_maps,
)
from bbo.types import Array, Params, Rng, require


class Regulariser(NamedTuple):
    """A pair of pure functions, either of which may be None (no noise there)."""

    weights: Callable[[Rng, Params], Params] | None = None
    """``(rng, params) -> noisy params``."""

    activations: Callable[..., Array] | None = None
    """``(rng, x, *, index) -> noisy x``; ``index`` [n] holds positions in the global batch."""

    per_example: bool = False
    """Whether ``weights`` is to be drawn anew for each example instead of once per step."""


def spatial_kernels(name: str, leaf: Any) -> bool:
    """Whether a parameter is the kernel ``[kh, kw, in, out]`` of a convolution larger than 1x1."""
    del name
    return getattr(leaf, "ndim", 0) >= 4 and math.prod(leaf.shape[:-2]) > 1


def perturb_selected(
    rng: Rng, params: Params, on: trees.Selector, transform: Callable[[Rng, Array], Array]
) -> Params:
    """Applies ``transform(key, leaf)`` to the selected leaves, each with a key of its own name.

    Raises:
      UsageError: ``on`` matches no parameter.
    """

    def perturb(name: str, leaf: Array, chosen: bool) -> Array:
        key = jax.random.fold_in(rng, zlib.crc32(name.encode()))
        return transform(key, leaf) if chosen else leaf

    return trees.map_named(perturb, params, trees.select(params, on))


def _bridgeout(q: float) -> Callable[[Array, Array], Array]:
    require(q > 0, "q", q, "> 0")
    return lambda w, xi: bridgeout_perturb(w, xi, q)


def _on_weights(
    perturb: Callable[[Array, Array], Array],
    *,
    rate: float | Array,
    on: trees.Selector,
    target_fraction: float = 1.0,
    target_unit: str = "kernel",
) -> Callable[[Rng, Params], Params]:
    check_rate(rate)

    def transform(key: Rng, w: Array) -> Array:
        keep = draw_keep(key, w.shape, rate)
        targeted = None if target_fraction == 1 else weakest(w, target_fraction, target_unit)
        return perturb_kept(perturb, w, keep, rate, targeted)

    return lambda rng, params: perturb_selected(rng, params, on, transform)


def _on_activations(
    perturb: Callable[[Array, Array], Array], *, rate: float | Array, target_fraction: float
) -> Callable[..., Array]:
    check_rate(rate)

    def one_example(key: Rng, x: Array) -> Array:
        keep = draw_keep(key, x.shape, rate)
        targeted = None if target_fraction == 1 else weakest_maps(x, target_fraction)
        return perturb_kept(perturb, x, keep, rate, targeted)

    def transform(rng: Rng, x: Array, *, index: Array) -> Array:
        # A key per example, by its place in the global batch: the draw does not depend on how
        # the batch is spread over devices.
        keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(index)
        return jax.vmap(one_example)(keys, x)

    return transform


def none() -> Regulariser:
    """No noise."""
    return Regulariser()


def batch_bridgeout(
    *,
    rate: float | Array,
    q: float,
    target_fraction: float = 0.75,
    target_unit: str = "kernel",
    on: trees.Selector = spatial_kernels,
) -> Regulariser:
    """``w + |w|**(q/2) xi``, one draw for the whole mini-batch, on the weakest units only.

    In a linear model with squared loss the noise is, in expectation, the penalty
    ``rate / (1 - rate) * sum |w|**q * sum_n x_n**2`` over the targeted weights.

    Args:
      rate: probability of dropping, in (0, 1).
      q: norm of the penalty, > 0.
      target_fraction: share of the units that are perturbed, in (0, 1].
      target_unit: ``kernel`` (the paper), ``weight`` or ``filter``; see ``weakest``.
      on: which parameters: a regular expression on names or ``(name, leaf) -> bool``.

    References: arXiv 2009.10893, section III.

    >>> params = {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}
    >>> noise = batch_bridgeout(rate=0.5, q=2.0, target_fraction=1.0)
    >>> noisy = noise.weights(jax.random.key(0), params)
    >>> sorted(set(noisy["kernel"].ravel().tolist())), noisy["bias"].tolist()
    ([0.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    """
    return Regulariser(
        weights=_on_weights(
            _bridgeout(q),
            rate=rate,
            on=on,
            target_fraction=target_fraction,
            target_unit=target_unit,
        )
    )


def bridgeout(
    *, rate: float | Array, q: float, on: trees.Selector = spatial_kernels
) -> Regulariser:
    """``w + |w|**(q/2) xi``, a draw for each example (arXiv 1804.08042); for small networks."""
    return Regulariser(weights=_on_weights(_bridgeout(q), rate=rate, on=on), per_example=True)


def group_bridgeout(
    *, rate: float | Array, q: float, on: trees.Selector = spatial_kernels
) -> Regulariser:
    """``w_ij + |w_j|**(q/2) xi_ij`` with the norm of filter j: group sparsity, one draw a step."""
    require(q > 0, "q", q, "> 0")
    return Regulariser(weights=_on_weights(lambda w, xi: group_perturb(w, xi, q), rate=rate, on=on))


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


def sparseout(*, rate: float | Array, q: float, target_fraction: float = 1.0) -> Regulariser:
    """``a + |a|**(q/2) xi`` on activations: an L_q penalty on them (arXiv 1904.08050)."""
    return Regulariser(
        activations=_on_activations(_bridgeout(q), rate=rate, target_fraction=target_fraction)
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


def create_regulariser(config: NoiseConfig, rate: Array | None = None) -> Regulariser:
    """The regulariser of a configuration; with another ``rate``, which may be traced, if given."""
    on = config.noise_on or spatial_kernels
    rate = config.rate if rate is None else rate
    q = config.q
    target = {"target_fraction": config.target_fraction, "target_unit": config.target_unit}
    maps = {"target_fraction": config.activation_target_fraction}
    makers: dict[str, Callable[[], Regulariser]] = {
        "none": none,
        "batch_bridgeout": lambda: batch_bridgeout(rate=rate, q=q, on=on, **target),
        "bridgeout": lambda: bridgeout(rate=rate, q=q, on=on),
        "group_bridgeout": lambda: group_bridgeout(rate=rate, q=q, on=on),
        "dropconnect": lambda: dropconnect(rate=rate, on=on),
        "dropout": lambda: dropout(rate=rate, **maps),
        "sparseout": lambda: sparseout(rate=rate, q=q, **maps),
        "targeted_dropout": lambda: targeted_dropout(rate=rate, on=on, **target),
        "shakeout": lambda: shakeout(rate=rate, c=config.shakeout_c, on=on),
    }
    return makers[config.noise]()
