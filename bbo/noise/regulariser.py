"""Regularisers: sparsity-inducing noise on weights or activations.

Noise on weights is a function of the parameter tree, outside the model: draw ``noisy =
regulariser.weights(rng, params)`` once per step, then apply the model to ``noisy``. One draw for
the whole mini-batch is what makes Bridgeout Batch Bridgeout, and it needs no help from the model.

Throughout, ``xi = keep / (1 - rate) - 1`` with ``keep ~ Bernoulli(1 - rate)``, so that ``E xi = 0``
and ``Var xi = rate / (1 - rate)``. Kernels are ``[..., in, out]``: HWIO for convolutions, ``[in,
out]`` for dense layers; a filter is one index of the last axis.

References: Khan & Stavness 2020 (arXiv 2009.10893) for Batch Bridgeout and targeting;
arXiv 1804.08042 (Bridgeout); arXiv 1904.08050 (Sparseout).
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo.noise.bernoulli import draw_bernoulli, draw_bernoulli_bytes, in_bytes
from bbo.noise.selection import Where, perturb_selected
from bbo.noise.targeting import weakest, weakest_maps
from bbo.settings.catalog import DRAW_BITS, UNITS
from bbo.trees import wide
from bbo.types import Array, Masks, Params, PyTree, Rng, UsageError, require, require_one_of


def unchanged(rng: Rng, x: PyTree, **options: Any) -> PyTree:
    """What is there where no noise is: ``x`` itself."""
    del rng, options
    return x


def nothing(params: Params) -> float:
    """No penalty."""
    del params
    return 0.0


class Regulariser(NamedTuple):
    """Pure functions. Where there is no noise they give back what they are given."""

    weights: Callable[[Rng, Params], Params] = unchanged
    """``(rng, params) -> noisy params``."""

    activations: Callable[..., Array] = unchanged
    """``(rng, x, *, index) -> noisy x``; ``index`` [n] holds positions in the global batch."""

    per_example: bool = False
    """Whether ``weights`` is to be drawn anew for each example instead of once per step."""

    network: Callable[[PyTree, Array], Array] | None = None
    """``(variables, images) -> logits`` in training mode, of a network of another size that is
    trained in place of the whole one. Running statistics stay as they are."""

    penalty: Callable[[Params], float | Array] = nothing
    """``params -> `` what is added to the loss."""

    @property
    def perturbs_weights(self) -> bool:
        """Whether there is noise on weights."""
        return self.weights is not unchanged

    @property
    def perturbs_activations(self) -> bool:
        """Whether there is noise on activations."""
        return self.activations is not unchanged


def masked(regulariser: Regulariser, masks: Masks) -> Regulariser:
    """A regulariser whose noise on weights leaves zero what has been removed.

    Noise may fall on a weight that is zero, by the size of the others in its filter
    (``group_bridgeout``) or by the 1e-12 under a small power: in a network that is trained further
    it would bring back what was pruned.

    Args:
      regulariser: any.
      masks: a tree like the parameters of bool arrays that broadcast to them, True to keep; may be
        traced. See ``pruning.masks``.

    >>> from bbo.noise import group_bridgeout
    >>> pruned = {"kernel": jnp.array([[3.0], [0.0]])}
    >>> masks = {"kernel": jnp.array([[True], [False]])}
    >>> noise = group_bridgeout(rate=0.5, q=2.0, on="kernel")
    >>> [bool(one.weights(jax.random.key(0), pruned)["kernel"][1, 0] == 0)
    ...  for one in (noise, masked(noise, masks))]
    [False, True]
    """
    if not regulariser.perturbs_weights:
        return regulariser

    def noisy(rng: Rng, params: Params) -> Params:
        def left(clean: Array, other: Array, keep: Array) -> Array:
            return clean if other is clean else jnp.where(keep, other, jnp.zeros_like(other))

        return jax.tree.map(left, params, regulariser.weights(rng, params), masks)

    return regulariser._replace(weights=noisy)


def _on_weights(
    perturb: Callable[[Array, Array], Array],
    *,
    rate: float | Array,
    where: Where,
    target_fraction: float = 1.0,
    target_unit: str = "kernel",
    nested: bool = False,
    draw_unit: str = "weight",
) -> Callable[[Rng, Params], Params]:
    check_rate(rate)
    require_one_of(UNITS, "draw_unit", draw_unit)

    def noisy(rng: Rng, params: Params) -> Params:
        share = draw_share(rng, target_fraction) if nested else target_fraction

        def transform(key: Rng, w: Array) -> Array:
            keep = draw_keep(key, units_shape(w, draw_unit), rate)
            everywhere = target_fraction == 1 and not nested
            targeted = None if everywhere else weakest(w, share, target_unit)
            return perturb_kept(perturb, w, keep, rate, targeted)

        return perturb_selected(rng, params, where, transform)

    return noisy


def units_shape(w: Array, unit: str) -> tuple[int, ...]:
    """The shape of a number for each unit of a kernel ``[..., in, out]``; broadcasts to it."""
    axes = {"filter": 1, "kernel": 2, "weight": w.ndim}[unit]
    return (1,) * (w.ndim - axes) + w.shape[w.ndim - axes :]


SHARE = zlib.crc32(b"share of the units")
"""What the key of a step is folded with to draw a share; no parameter has this name."""


def draw_share(rng: Rng, largest: float | Array) -> Array:
    """The share of the units that nested noise falls on in a step: even on [0, ``largest``)."""
    return largest * jax.random.uniform(jax.random.fold_in(rng, SHARE))


def paused(regulariser: Regulariser, pause: Array) -> Regulariser:
    """A regulariser that does nothing where ``pause``, a bool that may be traced, is true.

    Raises:
      UsageError: it trains a network of another size, which is a program of its own.
    """
    if regulariser.network:
        raise UsageError("a network of another size cannot be paused; take the whole one instead")

    def unless(noise: Callable[..., Any]) -> Callable[..., Any]:
        if noise is unchanged:
            return unchanged

        def chosen(clean: Any, other: Any) -> Any:
            return clean if other is clean else jnp.where(pause, clean, other)

        def noisy(rng: Rng, x: PyTree, **options: Any) -> PyTree:
            return jax.tree.map(chosen, x, noise(rng, x, **options))

        return noisy

    def penalty(params: Params) -> Array:
        return jnp.where(pause, 0.0, regulariser.penalty(params))

    return regulariser._replace(
        weights=unless(regulariser.weights),
        activations=unless(regulariser.activations),
        penalty=nothing if regulariser.penalty is nothing else penalty,
    )


def _on_activations(
    perturb: Callable[[Array, Array], Array],
    *,
    rate: float | Array,
    target_fraction: float,
    bits: int,
) -> Callable[..., Array]:
    check_rate(rate)
    require(bits in DRAW_BITS, "draw_bits", bits, "32 or 8")
    if bits == 8:
        rate = in_bytes(rate)
        if not isinstance(rate, jax.Array):
            require(0 < rate < 1, "rate", rate, "1/256 or more where draw_bits is 8")

    def one_example(key: Rng, x: Array) -> Array:
        keep = draw_keep(key, x.shape, rate, bits)
        targeted = None if target_fraction == 1 else weakest_maps(x, target_fraction)
        return perturb_kept(perturb, x, keep, rate, targeted)

    def transform(rng: Rng, x: Array, *, index: Array) -> Array:
        # A key per example, by its place in the global batch: the draw does not depend on how
        # the batch is spread over devices.
        keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(index)
        return jax.vmap(one_example)(keys, x)

    return transform


def none() -> Regulariser:
    """No noise.

    >>> none().weights(jax.random.key(0), {"kernel": 1.0}), none().perturbs_weights
    ({'kernel': 1.0}, False)
    """
    return Regulariser()


def centred(keep: Array, rate: float | Array) -> Array:
    """``xi`` of a Bernoulli keep mask (1 = kept): mean 0, variance ``rate / (1 - rate)``."""
    return keep / (1 - rate) - 1


def check_rate(rate: float | Array) -> None:
    """Raises UsageError unless a number is a probability of dropping, in (0, 1)."""
    if not isinstance(rate, jax.Array):
        require(0 < rate < 1, "rate", rate, "in (0, 1), for instance 0.3")


def draw_keep(rng: Rng, shape: tuple[int, ...], rate: float | Array, bits: int = 32) -> Array:
    """A fresh keep mask, uint8 of the given shape: 1 with probability ``1 - rate``, else 0.

    Of so many random ``bits`` each; of 8 where the rate is a multiple of 1/256.
    Written to memory once, by the barrier: what reads it then fuses as if there were no generator,
    and XLA's fusions on the CPU read bytes but no booleans.
    """
    draw = draw_bernoulli_bytes if bits == 8 else draw_bernoulli
    keep = draw(rng, 1 - rate, shape).astype(jnp.uint8)
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
      keep: broadcasts to ``x``, see ``draw_keep``.
      rate: probability of dropping.
      targeted: bool, broadcasts to ``x``: where there is noise; None is everywhere.
    """

    def noisy(x: Array, keep: Array, targeted: Array | None) -> Array:
        xi = centred(keep.astype(wide(x).dtype), rate)
        return perturb(x, xi if targeted is None else jnp.where(targeted, xi, jnp.zeros_like(xi)))

    return jax.checkpoint(noisy)(x, keep, targeted)
