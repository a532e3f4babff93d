"""The digits of scikit-learn, for the examples beside this file."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

Images = tuple[jax.Array, jax.Array]
"""Images [n, 8, 8, 1] in [-1, 1] and labels [n]."""


def load() -> tuple[Images, Images]:
    """Those to train on, and 360 others to test with."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = jnp.asarray(digits.images[order, ..., None] / 8 - 1, jnp.float32)
    labels = jnp.asarray(digits.target[order])
    return (images[360:], labels[360:]), (images[:360], labels[:360])


def batches(data: Images, *, epochs: int, seed: int = 0) -> list[Images]:
    """Batches of 64, shuffled in each epoch."""
    draw, (images, labels) = np.random.default_rng(seed), data
    found = []
    for _ in range(epochs):
        order = draw.permutation(len(images))
        found += [(images[rows], labels[rows]) for rows in np.split(order[:1408], 22)]
    return found


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over a batch."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


def accuracy(logits: jax.Array, labels: jax.Array) -> str:
    """In percent."""
    return f"{jnp.mean(logits.argmax(-1) == labels):.1%}"


def loop(step: Callable[..., Any], variables: Any, state: Any, batches: Sequence[Images]) -> Any:
    """The variables after ``step(variables, state, batch, key)`` of each batch."""
    for number, batch in enumerate(batches):
        variables, state = step(variables, state, batch, jax.random.key(number))
    return variables
