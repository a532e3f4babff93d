"""The strength of the noise over a training."""

import jax.numpy as jnp
import optax

from bbo.settings.noise_section import NoiseConfig


def strength_schedule(config: NoiseConfig, steps: int) -> optax.Schedule | None:
    """A factor in [0, 1] by step: up from 0, 1, and down to 0, each linear; None: always 1.

    Args:
      config: ``ramp_up`` and ``ramp_down`` are shares of the steps.
      steps: of the whole training.

    >>> schedule = strength_schedule(NoiseConfig(ramp_up=0.25, ramp_down=0.5), 100)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 25, 50, 75, 100)]
    [0.0, 0.2, 1.0, 1.0, 0.5, 0.0]
    """
    if config.ramp_up == config.ramp_down == 0:
        return None
    up, down = round(steps * config.ramp_up), round(steps * config.ramp_down)
    parts = [optax.constant_schedule(1.0)]
    borders = []
    if up:
        parts, borders = [optax.linear_schedule(0.0, 1.0, up), *parts], [up]
    if down:
        parts, borders = [*parts, optax.linear_schedule(1.0, 0.0, down)], [*borders, steps - down]
    joined = optax.join_schedules(parts, borders)
    return lambda step: joined(jnp.asarray(step, jnp.float32))
