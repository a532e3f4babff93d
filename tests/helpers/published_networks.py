"""Networks that others have published, written small from their papers' descriptions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bbo import trees


class Published(NamedTuple):
    """A network, and what a human sees in it."""

    function: Callable[..., Any]
    """``function(variables, x)``, in evaluation mode."""
    variables: Any
    x: Any
    train: Callable[..., Any] | None = None
    """``train(variables, x) -> (outputs, statistics)``, if there is a training mode."""


def drawn(like, seed=0):
    """Random arrays of float64 for all arrays of floats: weights that keep the scale of what they
    multiply, and numbers around 0.7 for vectors, be they biases, scales or variances."""
    draw = np.random.default_rng(seed)

    def leaf(name, one):
        del name
        if not jnp.issubdtype(one.dtype, jnp.floating):
            return one
        if len([size for size in one.shape if size > 1]) < 2:
            return jnp.asarray(draw.uniform(0.2, 1.2, one.shape))
        scale = np.sqrt(max(one.shape) / np.prod(one.shape))
        return jnp.asarray(draw.standard_normal(one.shape) * scale)

    return trees.map_named(leaf, like)


def images(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def tokens(*shape, words=20):
    return jnp.asarray(np.random.default_rng(1).integers(0, words, shape))
