"""Bernoulli draws that fuse with what uses them: the bits of ``jax.random``, made in one pass.

On the CPU JAX compiles its Threefry generator as a loop over arrays in memory, which fuses with
nothing. Written out, the same generator becomes part of
the expression that takes its bits.

References: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Threefry-2x32, with
20 rounds, the default of JAX).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from bbo.types import Array, Rng

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""By round, in groups of four that take turns; a word of the key is added after each group."""
PARITY = 0x1BD11BDA
"""What the third word of the key is the exclusive or of, with the two others."""
MANTISSA = 23
"""Random bits of a float32 of ``jax.random.uniform``."""


def draw_bernoulli(rng: Rng, probability: float | Array, shape: tuple[int, ...]) -> Array:
    """``jax.random.bernoulli``, to the last bit, of one probability.

    With another generator than the default, or in float64, it is that function. Drawn as a vector
    in any case: the same bits, which XLA compiles many times faster than over several axes.

    >>> bool(draw_bernoulli(jax.random.key(0), 1.0, (2, 3)).all())
    True
    """
    count = math.prod(shape)
    if not _is_default(rng, count) or jnp.result_type(probability) != jnp.float32:
        return jax.random.bernoulli(rng, probability, (count,)).reshape(shape)
    # A uniform number is the upper bits of 32, divided by 2**23; both sides are exact in float32.
    upper = threefry_bits(rng, count) >> (32 - MANTISSA)
    kept = upper.astype(jnp.float32) < jnp.float32(probability) * 2**MANTISSA
    return kept.reshape(shape)


def draw_bernoulli_bytes(rng: Rng, probability: float | Array, shape: tuple[int, ...]) -> Array:
    """Four draws from each random number: of the probability ``in_bytes(probability)``.

    >>> bool(draw_bernoulli_bytes(jax.random.key(0), 1.0, (2, 3)).all())
    True
    """
    count = math.prod(shape)
    words = -(-count // 4)
    if _is_default(rng, words):
        bits = threefry_bits(rng, words)
    else:
        bits = jax.random.bits(rng, (words,), jnp.uint32)
    each = lax.bitcast_convert_type(bits, jnp.uint8).reshape(-1)[:count]
    kept = each.astype(jnp.float32) < 256 * in_bytes(probability)
    return kept.reshape(shape)


def in_bytes(probability: float | Array) -> float | Array:
    """The nearest of 0, 1/256, ..., 1.

    >>> in_bytes(0.25), 256 * in_bytes(0.7)
    (0.25, 179.0)
    """
    return (jnp.round if isinstance(probability, jax.Array) else round)(256 * probability) / 256


def _is_default(rng: Rng, count: int) -> bool:
    """Whether so many numbers of a key are what ``threefry_bits`` computes."""
    layout = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    return layout and jax.random.key_impl(rng) == "threefry2x32" and count < 2**32


def threefry_bits(rng: Rng, count: int) -> Array:
    """``jax.random.bits(rng, (count,))`` of a ``threefry2x32`` key: uint32 [count], count < 2**32.

    The i-th is the exclusive or of the two words that the number i, of 64 bits, is encrypted to.
    """
    first, second = jax.random.key_data(rng)
    keys = (first, second, first ^ second ^ jnp.uint32(PARITY))
    x, y = keys[0], lax.iota(jnp.uint32, count) + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << rotation) | (y >> (32 - rotation)))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x ^ y
