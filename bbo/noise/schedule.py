"""The strength of the noise over a training, and which steps remove filters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bbo.noise.regulariser import draw_share
from bbo.settings.noise_section import NoiseConfig
from bbo.types import Rng


def strength_schedule(config: NoiseConfig, steps: int) -> optax.Schedule | None:
    """A factor in [0, 1] by step: 0, up to 1, 1, and down to 0, each linear; None: always 1.

    Args:
      config: ``noise_from``, ``ramp_up`` and ``ramp_down`` are shares of the steps.
      steps: of the whole training.

    >>> config = NoiseConfig(noise_from=0.1, ramp_up=0.25, ramp_down=0.5)
    >>> schedule = strength_schedule(config, 100)
    >>> [round(float(schedule(step)), 3) for step in (0, 10, 15, 35, 50, 75, 100)]
    [0.0, 0.0, 0.2, 1.0, 1.0, 0.5, 0.0]
    """
    if config.noise_from == config.ramp_up == config.ramp_down == 0:
        return None
    start = round(steps * config.noise_from)
    up, down = round(steps * config.ramp_up), round(steps * config.ramp_down)
    parts = [
        (0, optax.constant_schedule(0.0)),
        (start, optax.linear_schedule(0.0, 1.0, up)),
        (start + up, optax.constant_schedule(1.0)),
        (steps - down, optax.linear_schedule(1.0, 0.0, down)),
    ]
    lengths = (start, up, steps - down - start - up, down)
    begun = [part for part, length in zip(parts, lengths, strict=True) if length > 0]
    joined = optax.join_schedules([part for _, part in begun], [at for at, _ in begun[1:]])
    return lambda step: joined(jnp.asarray(step, jnp.float32))


def draw_removed(config: NoiseConfig, rng: Rng, steps: int) -> np.ndarray:
    """Which of ``removed_shares`` each step removes, counted from 1; 0 is the whole network.

    Known on the host before training, since networks of other sizes are other programs. The shares
    are equally likely. The whole network alone has ``clean_share`` of the steps, or none where each
    step learns from it anyway, and more while the strength of the noise is below 1.

    Args:
      config: the settings of the noise.
      rng: of the noise; step i draws from ``fold_in(rng, i)``.
      steps: of the whole training.

    Returns:
      int [steps].

    >>> config = NoiseConfig(noise="nested_dropping", removed_shares=(0.5, 0.75), clean_share=0.5)
    >>> np.bincount(draw_removed(config, jax.random.key(0), 1000)).tolist()
    [478, 274, 248]
    """
    if not config.removes:
        return np.zeros(steps, int)
    strength = strength_schedule(config, steps) or (lambda _: jnp.ones(()))
    noisy = 1.0 if config.clean_in == "each_step" else 1.0 - config.clean_share

    @jax.jit
    @jax.vmap
    def draw(step: jax.Array) -> jax.Array:
        chance = noisy * strength(step)
        place = draw_share(jax.random.fold_in(rng, step), 1.0)
        which = 1 + (place / chance * len(config.removed_shares)).astype(jnp.int32)
        return jnp.where(place < chance, jnp.minimum(which, len(config.removed_shares)), 0)

    return np.asarray(draw(jnp.arange(steps)))
