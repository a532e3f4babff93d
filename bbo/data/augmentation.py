"""Images as they go into a network: cropped, flipped, normalised, in random order."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bbo.types import Array, Rng, UsageError


def augment(rng: Rng, images: Array, *, index: Array, padding: int, flip: bool) -> Array:
    """Crops each image at random out of its zero-padded self, and flips it half of the time.

    Args:
      rng: the key of this step.
      images: uint8 [n, h, w, c].
      index: int32 [n], positions in the global batch. An image's fate depends on ``rng`` and its
        own position alone, hence not on how the batch is spread over devices.
      padding: pixels of black on each side before the crop; 0 leaves the place alone.
      flip: whether to flip horizontally with probability 1/2.

    Returns:
      uint8 [n, h, w, c]; the very input for ``padding=0, flip=False``.
    """
    if not (padding or flip):
        return images

    def drawn(position: Array) -> tuple[Array, Array]:
        crop_rng, flip_rng = jax.random.split(jax.random.fold_in(rng, position))
        place = jax.random.randint(crop_rng, (2,), 0, 2 * padding + 1, jnp.int32)
        return place, jax.random.bernoulli(flip_rng) if flip else jnp.zeros((), bool)

    place, turned = jax.vmap(drawn)(index)
    for axis in (1, 2):
        images = _shifted(images, place[:, axis - 1], padding, axis)
    if flip:
        images = jnp.where(turned[:, None, None, None], images[:, :, ::-1], images)
    return images


def _shifted(images: Array, start: Array, padding: int, axis: int) -> Array:
    """Each image from ``start`` [n] on along an axis of it, padded with zeros on both sides.

    A choice among all shifts, which are few: a slice at a place of each image's own is a loop over
    the images on a TPU.
    """
    around = [(0, 0)] * images.ndim
    around[axis] = (padding, padding)
    padded, length = jnp.pad(images, around), images.shape[axis]
    start = start.reshape(-1, 1, 1, 1)
    found = images
    for first in range(2 * padding + 1):
        shift = lax.slice_in_dim(padded, first, first + length, axis=axis)
        found = jnp.where(start == first, shift, found)
    return found


def normalize(
    images: Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any = jnp.float32
) -> Array:
    """``(x / 255 - mean) / std`` per channel, in float32, then cast to ``dtype``.

    Args:
      images: uint8 [n, h, w, c].
      mean: c numbers, of pixels in [0, 1].
      std: c numbers.
      dtype: of the result [n, h, w, c].
    """
    pixels = images.astype(jnp.float32) / 255
    centre, scale = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, -1) for x in (mean, std))
    return ((pixels - centre) / scale).astype(dtype)


def epoch_indices(rng: Rng, num_images: int, batch_size: int) -> Array:
    """The images of each step of an epoch, int32 [steps, batch_size], in random order.

    The ``num_images % batch_size`` images that fill no batch are left out, others each epoch.

    Raises:
      UsageError: there are fewer images than one batch takes.
    """
    steps = num_images // batch_size
    if steps == 0:
        raise UsageError(f"batch_size is {batch_size}; it must be at most {num_images} (images)")
    order = jax.random.permutation(rng, jnp.arange(num_images, dtype=jnp.int32))
    return order[: steps * batch_size].reshape(steps, batch_size)
