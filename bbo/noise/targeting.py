"""The elementary transforms that noise is made of: xi, the perturbations, and targeting.

``xi = keep / (1 - rate) - 1`` with ``keep ~ Bernoulli(1 - rate)``, so that ``E xi = 0`` and
``Var xi = rate / (1 - rate)``. Kernels are ``[..., in, out]``: HWIO for convolutions, ``[in,
out]`` for dense layers; a filter is one index of the last axis.

References: Khan & Stavness 2020 (arXiv 2009.10893), Bridgeout (arXiv 1804.08042).
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bbo import selecting
from bbo.catalog import UNITS
from bbo.drawing import draw_bernoulli
from bbo.types import Array, Rng, UsageError, require, require_one_of

EPSILON = 1e-12
"""Added to a magnitude before it is raised to a power, as in the authors' program."""


def centred(keep: Array, rate: float | Array) -> Array:
    """``xi`` of a Bernoulli keep mask (1 = kept): mean 0, variance ``rate / (1 - rate)``."""
    return keep / (1 - rate) - 1


def check_rate(rate: float | Array) -> None:
    """Raises UsageError unless a number is a probability of dropping, in (0, 1)."""
    if not isinstance(rate, jax.Array):
        require(0 < rate < 1, "rate", rate, "in (0, 1), for instance 0.3")


def draw_keep(rng: Rng, shape: tuple[int, ...], rate: float | Array) -> Array:
    """A fresh keep mask, uint8 of the given shape: 1 with probability ``1 - rate``, else 0.

    Written to memory once, by the barrier: what reads it then fuses as if there were no generator,
    and XLA's fusions on the CPU read bytes but no booleans.
    """
    keep = draw_bernoulli(rng, 1 - rate, shape).astype(jnp.uint8)
    return jax.lax.optimization_barrier(keep)


def perturb_kept(
    perturb: Callable[[Array, Array], Array],
    x: Array,
    keep: Array,
    rate: float | Array,
    targeted: Array | None = None,
) -> Array:
    """``perturb(x, xi)`` of a keep mask, whose derivative remembers the mask instead of ``xi``.

    Args:
      perturb: one of the transforms below.
      x: what is perturbed.
      keep: like ``x``, see ``draw_keep``.
      rate: probability of dropping.
      targeted: bool, broadcasts to ``x``: where there is noise; None is everywhere.
    """

    def noisy(x: Array, keep: Array, targeted: Array | None) -> Array:
        xi = centred(keep.astype(wide(x).dtype), rate)
        return perturb(x, xi if targeted is None else jnp.where(targeted, xi, jnp.zeros_like(xi)))

    return jax.checkpoint(noisy)(x, keep, targeted)


def wide(x: Array) -> Array:
    """In float32 at least: epsilon and the moments of xi need its range and precision."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def _power(magnitude: Array, exponent: float) -> Array:
    """``magnitude ** exponent``; by square roots, which cost less, where they do."""
    root = jnp.sqrt(magnitude)
    by_roots: dict[float, Callable[[], Array]] = {
        -0.75: lambda: 1 / (root * jnp.sqrt(root)),
        -0.5: lambda: jax.lax.rsqrt(magnitude),
        -0.25: lambda: 1 / jnp.sqrt(root),
        0.25: lambda: jnp.sqrt(root),
        0.5: lambda: root,
        0.75: lambda: root * jnp.sqrt(root),
        1.0: lambda: magnitude,
    }
    return by_roots.get(exponent, lambda: jnp.power(magnitude, exponent))()


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def bridgeout_perturb(w: Array, xi: Array, q: float) -> Array:
    """``w + (|w| + eps)**(q/2) * xi``, elementwise (arXiv 1804.08042).

    The derivative is ``1 + (q/2) sign(w) (|w| + eps)**(q/2 - 1) xi``, which is 1 at ``w = 0``: a
    pruned weight stays finite for every ``q > 0``. Computed in float32 at least.

    >>> float(bridgeout_perturb(jnp.float32(4.0), jnp.float32(-1.0), 1.0))
    2.0
    """
    magnitude = _power(jnp.abs(wide(w)) + EPSILON, q / 2)
    return (wide(w) + magnitude * wide(xi)).astype(w.dtype)


@bridgeout_perturb.defjvp
def _bridgeout_jvp(q: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (w, xi), (w_dot, xi_dot) = primals, tangents
    magnitude = jnp.abs(wide(w)) + EPSILON
    slope = q / 2 * jnp.sign(wide(w)) * _power(magnitude, q / 2 - 1)
    tangent = (1 + slope * wide(xi)) * wide(w_dot) + _power(magnitude, q / 2) * wide(xi_dot)
    return bridgeout_perturb(w, xi, q), tangent.astype(w.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def group_perturb(w: Array, xi: Array, q: float) -> Array:
    """``w_ij + (|w_j| + eps)**(q/2) * xi_ij`` with ``|w_j|`` the L2 norm of filter j.

    Args:
      w: ``[..., out]``.
      xi: like ``w``.
      q: norm of the penalty ``sum_j |w_j|**q``; 1 is the group lasso.
    """
    magnitude = _power(_filter_norm(wide(w)) + EPSILON, q / 2)
    return (wide(w) + magnitude * wide(xi)).astype(w.dtype)


@group_perturb.defjvp
def _group_jvp(q: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (w, xi), (w_dot, xi_dot) = primals, tangents
    norm = _filter_norm(wide(w)) + EPSILON
    # The direction w / norm is bounded by 1, and 0 in a filter that is all zero.
    norm_dot = jnp.sum(wide(w) / norm * wide(w_dot), axis=range(w.ndim - 1), keepdims=True)
    slope = q / 2 * _power(norm, q / 2 - 1)
    tangent = wide(w_dot) + slope * wide(xi) * norm_dot + _power(norm, q / 2) * wide(xi_dot)
    return group_perturb(w, xi, q), tangent.astype(w.dtype)


def _filter_norm(w: Array) -> Array:
    """L2 norm of each filter, with every axis kept: ``[1, ..., out]``."""
    return jnp.sqrt(jnp.sum(jnp.square(w), axis=range(w.ndim - 1), keepdims=True))


def _kernel_norm(w: Array) -> Array:
    """L2 norm of each 2-D kernel, with every axis kept: ``[1, ..., in, out]``."""
    # A sum over the first axes is a slow reduction on the CPU; written out it is one fused pass.
    places = jnp.square(w).reshape(-1, *w.shape[-2:])
    total = functools.reduce(operator.add, places)
    return jnp.sqrt(total).reshape((1,) * (w.ndim - 2) + w.shape[-2:])


def drop(x: Array, xi: Array) -> Array:
    """``x * (1 + xi)``: zero or ``x / (1 - rate)``; Dropout and DropConnect."""
    return (wide(x) * (1 + wide(xi))).astype(x.dtype)


def shake(w: Array, xi: Array, c: float) -> Array:
    """``w + xi * (w + c * sign(w))`` (Shakeout)."""
    return (wide(w) + wide(xi) * (wide(w) + c * jnp.sign(wide(w)))).astype(w.dtype)


def weakest(w: Array, fraction: float, unit: str = "kernel") -> Array:
    """Mask of the weakest units of a kernel by L2 norm: those that targeting perturbs.

    True is strictly below the value at rank ``int(n * fraction)``, as in the authors' program, so
    that units tied with that value are not targeted, and of a single unit none is (the 2-D
    kernels of a first layer on grey images).

    Args:
      w: kernel ``[..., in, out]``.
      fraction: in (0, 1]; 1 targets everything.
      unit: ``kernel``: 2-D kernels compete within their filter (single weights in a dense layer);
        ``weight``: single weights within their filter; ``filter``: filters within the layer.

    Returns:
      bool mask that broadcasts to ``w``; no gradient flows through it.

    Raises:
      UsageError: an argument out of range, or no filters in ``w`` to rank kernels or weights in.
    """
    require_one_of(UNITS, "target_unit", unit)
    require(0 < fraction <= 1, "target_fraction", fraction, "in (0, 1]")
    if fraction == 1:
        return jnp.ones((1,) * w.ndim, bool)
    if w.ndim < 2 and unit != "filter":
        raise UsageError(
            f"noise_on selects an array of shape {w.shape}, in which no weakest {unit} can be "
            "targeted; select kernels, or set target_fraction to 1"
        )
    w = wide(jax.lax.stop_gradient(w))
    if unit == "filter":
        return _below_rank(_filter_norm(w), fraction, axis=-1)
    if unit == "kernel":
        return _below_rank(_kernel_norm(w), fraction, axis=-2)
    return _below_rank(jnp.abs(w).reshape(-1, w.shape[-1]), fraction, axis=0).reshape(w.shape)


def weakest_maps(x: Array, fraction: float) -> Array:
    """The same for one example's activations ``[..., channels]``: channels ranked by L2 norm."""
    return weakest(x, fraction, unit="filter")


def _below_rank(norms: Array, fraction: float, axis: int) -> Array:
    rank = int(norms.shape[axis] * fraction)
    return norms < selecting.smallest(norms, rank, axis=axis)
