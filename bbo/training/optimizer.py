"""SGD as the paper uses it: Nesterov momentum, coupled weight decay, and its schedules."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bbo.settings.sections import OptimizerConfig
from bbo.types import Array, PyTree


def learning_rate_schedule(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Learning rate by step.

    Milestones are shares of ``epochs``, rounded to whole epochs: the paper's 60, 120, 160 and 200
    of 230 scale with the length of the run.
    """
    steps = epochs * steps_per_epoch
    if config.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    if config.schedule == "cosine":
        warmup = int(steps * config.warmup_fraction)
        cosine = optax.warmup_cosine_decay_schedule(
            0.0 if warmup else config.learning_rate, config.learning_rate, warmup, steps
        )
        return _of_float(cosine)
    factors: dict[int, float] = {}
    for milestone in config.milestones:
        step = max(1, round(milestone * epochs)) * steps_per_epoch
        factors[step] = factors.get(step, 1.0) * config.decay_factor
    return _of_float(optax.piecewise_constant_schedule(config.learning_rate, factors))


def _of_float(schedule: optax.Schedule) -> optax.Schedule:
    """With a whole number it relies on implicit promotion, which may be forbidden."""
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


class ResetState(NamedTuple):
    """State of ``reset_every``."""

    count: Array
    inner: PyTree


def reset_every(inner: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Starts ``inner`` anew every ``steps`` updates, as a program does that rebuilds it."""

    def init(params: PyTree) -> ResetState:
        return ResetState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, ResetState]:
        fresh = state.count % steps == 0
        start = jax.tree.map(
            lambda new, old: jnp.where(fresh, new, old), inner.init(params), state.inner
        )
        updates, inner_state = inner.update(updates, start, params)
        return updates, ResetState(state.count + 1, inner_state)

    return optax.GradientTransformation(init, update)


class HoldState(NamedTuple):
    """State of ``hold``."""

    masks: PyTree
    """A bool for every number, True where it may change."""
    inner: PyTree


def hold(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Leaves alone what the masks in its state say; at first they let everything change.

    What is zero and held stays zero. As the masks are part of the state, they are saved with it,
    and one compiled program serves all of them.
    """

    def init(params: PyTree) -> HoldState:
        everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
        return HoldState(everything, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, HoldState]:
        updates, inner_state = inner.update(updates, state.inner, params)
        return zero_where_held(updates, state), HoldState(state.masks, inner_state)

    return optax.GradientTransformation(init, update)


def zero_where_held(tree: PyTree, opt_state: Any) -> PyTree:
    """A tree like the parameters, but zero where the state is one of ``hold`` that holds them."""
    if not isinstance(opt_state, HoldState):
        return tree
    return jax.tree.map(
        lambda leaf, mask: jnp.where(mask, leaf, jnp.zeros_like(leaf)), tree, opt_state.masks
    )


def create_optimizer(
    config: OptimizerConfig, *, epochs: int, steps_per_epoch: int, holding: bool = False
) -> optax.GradientTransformation:
    """``g += weight_decay * p``; Nesterov momentum; ``p -= learning_rate * update``.

    The weight decay reaches every parameter, biases and norm scales too, as in the paper.

    Args:
      config: its settings.
      epochs: of the whole training.
      steps_per_epoch: updates in each.
      holding: as ``hold`` of it.
    """
    momentum = optax.trace(decay=config.momentum, nesterov=True)
    if config.reset_momentum:
        momentum = reset_every(momentum, steps_per_epoch)
    schedule = learning_rate_schedule(config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    optimizer = optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        momentum,
        optax.scale_by_learning_rate(schedule),
    )
    return hold(optimizer) if holding else optimizer
