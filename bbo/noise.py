"""Regularisers: sparsity-inducing noise on weights or activations.

Noise on weights is a function of the parameter tree, outside the model: draw ``noisy =
regulariser.weights(rng, params)`` once per step, then apply the model to ``noisy``. One draw for
the whole mini-batch is what makes Bridgeout Batch Bridgeout, and it needs no help from the model.

Throughout, ``xi = keep / (1 - rate) - 1`` with ``keep ~ Bernoulli(1 - rate)``, so that
``E xi = 0`` and ``Var xi = rate / (1 - rate)``. Kernels are ``[..., in, out]``: HWIO for
convolutions, ``[in, out]`` for dense layers; a filter is one index of the last axis.

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
from bbo.types import Array, Params, Rng

EPSILON = 1e-12
"""Added to a magnitude before it is raised to a power, as in the authors' program."""


class Regulariser(NamedTuple):
    """A pair of pure functions, either of which may be None (no noise there)."""

    weights: Callable[[Rng, Params], Params] | None = None
    """``(rng, params) -> noisy params``."""

    activations: Callable[..., Array] | None = None
    """``(rng, x, *, index) -> noisy x``; ``index`` [n] holds positions in the global batch."""

    per_example: bool = False
    """Whether ``weights`` is to be drawn anew for each example instead of once per step."""


def centred(keep: Array, rate: float) -> Array:
    """``xi`` of a Bernoulli keep mask (1 = kept): mean 0, variance ``rate / (1 - rate)``."""
    return keep / (1 - rate) - 1


def draw_xi(rng: Rng, shape: tuple[int, ...], rate: float, dtype: Any = jnp.float32) -> Array:
    """A fresh ``xi`` of the given shape."""
    return centred(jax.random.bernoulli(rng, 1 - rate, shape).astype(dtype), rate)


def _wide(x: Array) -> Array:
    """In float32 at least: epsilon and the moments of xi need its range and precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _power(magnitude: Array, exponent: float) -> Array:
    return magnitude if exponent == 1 else jnp.power(magnitude, exponent)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def bridgeout_perturb(w: Array, xi: Array, q: float) -> Array:
    """``w + (|w| + eps)**(q/2) * xi``, elementwise (arXiv 1804.08042).

    The derivative is ``1 + (q/2) sign(w) (|w| + eps)**(q/2 - 1) xi``, which is 1 at ``w = 0``: a
    pruned weight stays finite for every ``q > 0``. Computed in float32 at least.

    >>> float(bridgeout_perturb(jnp.float32(4.0), jnp.float32(-1.0), 1.0))
    2.0
    """
    magnitude = _power(jnp.abs(_wide(w)) + EPSILON, q / 2)
    return (_wide(w) + magnitude * _wide(xi)).astype(w.dtype)


@bridgeout_perturb.defjvp
def _bridgeout_jvp(q: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (w, xi), (w_dot, xi_dot) = primals, tangents
    magnitude = jnp.abs(_wide(w)) + EPSILON
    slope = q / 2 * jnp.sign(_wide(w)) * jnp.power(magnitude, q / 2 - 1)
    tangent = (1 + slope * _wide(xi)) * _wide(w_dot) + _power(magnitude, q / 2) * _wide(xi_dot)
    return bridgeout_perturb(w, xi, q), tangent.astype(w.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def group_perturb(w: Array, xi: Array, q: float) -> Array:
    """``w_ij + (|w_j| + eps)**(q/2) * xi_ij`` with ``|w_j|`` the L2 norm of filter j.

    Args:
      w: ``[..., out]``.
      xi: like ``w``.
      q: norm of the penalty ``sum_j |w_j|**q``; 1 is the group lasso.
    """
    magnitude = _power(_filter_norm(_wide(w)) + EPSILON, q / 2)
    return (_wide(w) + magnitude * _wide(xi)).astype(w.dtype)


@group_perturb.defjvp
def _group_jvp(q: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (w, xi), (w_dot, xi_dot) = primals, tangents
    norm = _filter_norm(_wide(w)) + EPSILON
    # The direction w / norm is bounded by 1, and 0 in a filter that is all zero.
    norm_dot = jnp.sum(_wide(w) / norm * _wide(w_dot), axis=range(w.ndim - 1), keepdims=True)
    slope = q / 2 * jnp.power(norm, q / 2 - 1)
    tangent = _wide(w_dot) + slope * _wide(xi) * norm_dot + _power(norm, q / 2) * _wide(xi_dot)
    return group_perturb(w, xi, q), tangent.astype(w.dtype)


def _filter_norm(w: Array) -> Array:
    """L2 norm of each filter, with every axis kept: ``[1, ..., out]``."""
    return jnp.sqrt(jnp.sum(jnp.square(w), axis=range(w.ndim - 1), keepdims=True))


def drop(x: Array, xi: Array) -> Array:
    """``x * (1 + xi)``: zero or ``x / (1 - rate)``; Dropout and DropConnect."""
    return (_wide(x) + _wide(x) * _wide(xi)).astype(x.dtype)


def shake(w: Array, xi: Array, c: float) -> Array:
    """``w + xi * (w + c * sign(w))`` (Shakeout)."""
    return (_wide(w) + _wide(xi) * (_wide(w) + c * jnp.sign(_wide(w)))).astype(w.dtype)


def weakest(w: Array, fraction: float, unit: str = "kernel") -> Array:
    """Mask of the weakest units of a kernel by L2 norm: those that targeting perturbs.

    True is strictly below the value at rank ``int(n * fraction)``, as in the authors' program, so
    that units tied with that value are not targeted.

    Args:
      w: kernel ``[..., in, out]``.
      fraction: in (0, 1]; 1 targets everything.
      unit: ``kernel``: 2-D kernels compete within their filter (single weights in a dense layer);
        ``weight``: single weights within their filter; ``filter``: filters within the layer.

    Returns:
      bool mask that broadcasts to ``w``; no gradient flows through it.
    """
    if fraction >= 1:
        return jnp.ones((1,) * w.ndim, bool)
    w = _wide(jax.lax.stop_gradient(w))
    if unit == "filter":
        return _below_rank(_filter_norm(w), fraction, axis=-1)
    if unit == "kernel":
        norms = jnp.sqrt(jnp.sum(jnp.square(w), axis=range(w.ndim - 2), keepdims=True))
        return _below_rank(norms, fraction, axis=-2)
    return _below_rank(jnp.abs(w).reshape(-1, w.shape[-1]), fraction, axis=0).reshape(w.shape)


def weakest_maps(x: Array, fraction: float) -> Array:
    """The same for one example's activations ``[..., channels]``: channels ranked by L2 norm."""
    return weakest(x, fraction, unit="filter")


def _below_rank(norms: Array, fraction: float, axis: int) -> Array:
    rank = int(norms.shape[axis] * fraction)
    threshold = jnp.take(jnp.sort(norms, axis=axis), jnp.array([rank]), axis=axis)
    return norms < threshold


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
    return lambda w, xi: bridgeout_perturb(w, xi, q)


def _on_weights(
    perturb: Callable[[Array, Array], Array],
    *,
    rate: float,
    on: trees.Selector,
    target_fraction: float = 1.0,
    target_unit: str = "kernel",
) -> Callable[[Rng, Params], Params]:
    def transform(key: Rng, w: Array) -> Array:
        xi = draw_xi(key, w.shape, rate, _wide(w).dtype)
        if target_fraction < 1:
            xi = jnp.where(weakest(w, target_fraction, target_unit), xi, jnp.zeros_like(xi))
        return perturb(w, xi)

    return lambda rng, params: perturb_selected(rng, params, on, transform)


def _on_activations(
    perturb: Callable[[Array, Array], Array], *, rate: float, target_fraction: float
) -> Callable[..., Array]:
    def one_example(key: Rng, x: Array) -> Array:
        xi = draw_xi(key, x.shape, rate, _wide(x).dtype)
        if target_fraction < 1:
            xi = jnp.where(weakest_maps(x, target_fraction), xi, jnp.zeros_like(xi))
        return perturb(x, xi)

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
    rate: float,
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


def bridgeout(*, rate: float, q: float, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w + |w|**(q/2) xi``, a draw for each example (arXiv 1804.08042); for small networks."""
    return Regulariser(weights=_on_weights(_bridgeout(q), rate=rate, on=on), per_example=True)


def group_bridgeout(*, rate: float, q: float, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w_ij + |w_j|**(q/2) xi_ij`` with the norm of filter j: group sparsity, one draw a step."""
    return Regulariser(weights=_on_weights(lambda w, xi: group_perturb(w, xi, q), rate=rate, on=on))


def dropconnect(*, rate: float, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w * keep / (1 - rate)``, one draw a step."""
    return Regulariser(weights=_on_weights(drop, rate=rate, on=on))


def shakeout(*, rate: float, c: float, on: trees.Selector = spatial_kernels) -> Regulariser:
    """``w + xi (w + c sign(w))``, one draw a step: an L0 + L1 + L2 penalty."""
    return Regulariser(weights=_on_weights(lambda w, xi: shake(w, xi, c), rate=rate, on=on))


def dropout(*, rate: float, target_fraction: float = 1.0) -> Regulariser:
    """``x * keep / (1 - rate)`` on activations, of the weakest channel maps only if targeted."""
    return Regulariser(
        activations=_on_activations(drop, rate=rate, target_fraction=target_fraction)
    )


def sparseout(*, rate: float, q: float, target_fraction: float = 1.0) -> Regulariser:
    """``a + |a|**(q/2) xi`` on activations: an L_q penalty on them (arXiv 1904.08050)."""
    return Regulariser(
        activations=_on_activations(_bridgeout(q), rate=rate, target_fraction=target_fraction)
    )


def targeted_dropout(
    *,
    rate: float,
    target_fraction: float,
    target_unit: str = "weight",
    on: trees.Selector = spatial_kernels,
) -> Regulariser:
    """Units among the weakest are set to zero with probability ``rate``, the others left alone.

    Nothing is rescaled: a targeted weight has mean ``(1 - rate) w`` and variance
    ``rate (1 - rate) w**2``. A unit (weight, kernel or filter) is dropped in one piece.

    References: Gomez et al. 2019 (arXiv 1905.13678), weight and unit dropout.
    """

    def transform(key: Rng, w: Array) -> Array:
        units = {"filter": w.shape[-1:], "kernel": w.shape[-2:], "weight": w.shape}[target_unit]
        dropped = jax.random.bernoulli(key, rate, units) & weakest(w, target_fraction, target_unit)
        return jnp.where(dropped, jnp.zeros_like(w), w)

    return Regulariser(weights=lambda rng, params: perturb_selected(rng, params, on, transform))


def create_regulariser(config: NoiseConfig) -> Regulariser:
    """The regulariser of a configuration."""
    on = config.noise_on or spatial_kernels
    rate, q = config.rate, config.q
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
