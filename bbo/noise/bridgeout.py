"""The Bridgeouts and Sparseout: noise by a power of the magnitude of what it falls on.

References: Khan & Stavness 2020 (arXiv 2009.10893), Bridgeout (arXiv 1804.08042), Sparseout (arXiv
1904.08050).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.noise.regulariser import Regulariser, _on_activations, _on_weights
from bbo.noise.selection import Where
from bbo.noise.targeting import _filter_norm
from bbo.trees import wide
from bbo.types import Array, require


def _check_q(q: float) -> None:
    require(0 < q <= 8, "q", q, "in (0, 8]")


def _bridgeout(q: float) -> Callable[[Array, Array], Array]:
    _check_q(q)
    return lambda w, xi: bridgeout_perturb(w, xi, q)


def batch_bridgeout(
    *,
    rate: float | Array,
    q: float,
    target_fraction: float = 0.75,
    target_unit: str = "kernel",
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w + |w|**(q/2) xi``, one draw for the whole mini-batch, on the weakest units only.

    In a linear model with squared loss the noise is, in expectation, the penalty
    ``rate / (1 - rate) * sum |w|**q * sum_n x_n**2`` over the targeted weights.

    Args:
      rate: probability of dropping, in (0, 1).
      q: norm of the penalty, in (0, 8].
      target_fraction: share of the units that are perturbed, in (0, 1].
      target_unit: ``kernel`` (the paper), ``weight`` or ``filter``; see ``weakest``.
      on: which parameters, see ``Where``.
      channels: of the network, in whatever layout, see ``Where``.

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
            where=Where(on, channels),
            target_fraction=target_fraction,
            target_unit=target_unit,
        )
    )


def scale_free_bridgeout(  # noqa: PLR0913 (how it is drawn, and where)
    *,
    rate: float | Array,
    q: float,
    target_fraction: float = 0.75,
    target_unit: str = "filter",
    nested: bool = False,
    draw_unit: str = "weight",
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w + s (|w| / s)**(q/2) xi``, with ``s`` the root mean square of all that ``w`` is part of.

    Behind a norm the scale of a kernel is free and weight decay shrinks it; Batch Bridgeout's noise
    grows in proportion when ``q < 2``. Here twice the weights have twice the noise: its strength is
    the same in every layer, at every width and time. The penalty of ``batch_bridgeout`` has the
    factor ``s**(2 - q)``; no gradient flows through ``s``.

    Args:
      rate: probability of dropping, in (0, 1).
      q: norm of the penalty, in (0, 8].
      target_fraction: share of the units that are perturbed, in (0, 1].
      target_unit: ``filter``, ``kernel`` or ``weight``; see ``weakest``.
      nested: each step perturbs another share, drawn evenly from [0, target_fraction) for all
        parameters: a unit of rank r in [0, 1] with probability ``1 - r / target_fraction``, which
        is a factor on its penalty.
      draw_unit: what a ``xi`` is drawn for: each ``weight``, 2-D ``kernel`` or ``filter``. What
        moves as one has the penalty ``rate / (1 - rate) * sum_n (sum_i s (|w_i| / s)**(q/2)
        x_ni)**2`` over its weights ``i``.
      on: which parameters, see ``Where``.
      channels: of the network, in whatever layout, see ``Where``.

    References: ours.
    """
    perturb = _bridgeout(q)

    def relative(w: Array, xi: Array) -> Array:
        square = jnp.mean(jnp.square(jax.lax.stop_gradient(wide(w))))
        scale = jnp.where(square > 0, jnp.sqrt(square), 1.0)
        return (scale * perturb(wide(w) / scale, xi)).astype(w.dtype)

    return Regulariser(
        weights=_on_weights(
            relative,
            rate=rate,
            where=Where(on, channels),
            target_fraction=target_fraction,
            target_unit=target_unit,
            nested=nested,
            draw_unit=draw_unit,
        )
    )


def bridgeout(
    *,
    rate: float | Array,
    q: float,
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w + |w|**(q/2) xi``, a draw for each example (arXiv 1804.08042); for small networks."""
    return Regulariser(
        weights=_on_weights(_bridgeout(q), rate=rate, where=Where(on, channels)), per_example=True
    )


def group_bridgeout(
    *,
    rate: float | Array,
    q: float,
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``w_ij + |w_j|**(q/2) xi_ij`` with the norm of filter j: group sparsity, one draw a step."""
    _check_q(q)
    return Regulariser(
        weights=_on_weights(
            lambda w, xi: group_perturb(w, xi, q), rate=rate, where=Where(on, channels)
        )
    )


def sparseout(
    *, rate: float | Array, q: float, target_fraction: float = 1.0, draw_bits: int = 32
) -> Regulariser:
    """``a + |a|**(q/2) xi`` on activations: an L_q penalty on them (arXiv 1904.08050).

    The other arguments are those of ``dropout``.
    """
    how: dict[str, Any] = {"rate": rate, "target_fraction": target_fraction, "bits": draw_bits}
    return Regulariser(activations=_on_activations(_bridgeout(q), **how))


EPSILON = 1e-12
"""Added to a magnitude before it is raised to a power, as in the authors' program."""


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
