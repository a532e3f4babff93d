"""Pruning in a training loop that has optax: what was removed stays zero.

``bbo.optax`` is this module.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bbo.types import Array, Masks, Params, UsageError, require

MasksOf = Callable[[Params, Array], Masks]
"""``(params, sparsity) -> masks`` of traced arrays, for instance ``lambda params, sparsity:
pruning.prepare(params, channels=channels).masks(sparsity)``."""


def hold_at_zero(masks: Masks) -> optax.GradientTransformation:
    """Updates after which what the masks drop is zero; last in ``optax.chain``.

    Args:
      masks: a tree like the parameters, True to keep, see ``pruning.masks``.

    >>> held = hold_at_zero({"w": jnp.array([True, False])})
    >>> tx = optax.chain(optax.sgd(0.1), held)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.9, 0. ], dtype=float32)}
    """

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        return _held(updates, masks, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class GradualState(NamedTuple):
    """Of ``prune_gradually``."""

    step: Array
    masks: Masks


def prune_gradually(
    masks_of: MasksOf, sparsity: optax.Schedule, *, every: int = 1
) -> optax.GradientTransformation:
    """Prunes more and more while a network trains; last in ``optax.chain``.

    Every so many steps masks are made anew of the parameters, at the sparsity of that step. What
    they drop is zero after the step, and until they are made again.

    Args:
      masks_of: see there; what is zero already scores lowest, so that it stays dropped.
      sparsity: from the step to the share of the units to drop, in [0, 1], such as
        ``optax.polynomial_schedule(0.0, 0.5, 3, 1000)``.
      every: so many steps.

    References: Zhu and Gupta 2017 (arXiv 1710.01878), with a cubic schedule.
    """
    require(every >= 1, "every", every, "1 or more")

    def init(params: Params) -> GradualState:
        return GradualState(jnp.zeros((), jnp.int32), masks_of(params, jnp.zeros(())))

    def update(
        updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, GradualState]:
        _require_params(params)
        masks = jax.lax.cond(
            state.step % every == 0,
            lambda: masks_of(params, jnp.asarray(sparsity(state.step), jnp.float32)),
            lambda: state.masks,
        )
        return _held(updates, masks, params), GradualState(state.step + 1, masks)

    return optax.GradientTransformation(init, update)


def _held(updates: Params, masks: Masks, params: Params | None) -> Params:
    _require_params(params)
    return jax.tree.map(lambda u, keep, w: jnp.where(keep, u, -w), updates, masks, params)


def _require_params(params: Params | None) -> None:
    if params is None:
        raise UsageError("what is held at zero has to be known: update(gradients, state, params)")
