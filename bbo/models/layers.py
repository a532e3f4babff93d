"""What every network is made of: convolution, BatchNorm, classifier, and the sites of noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from bbo.types import Array, Rng, UsageError

Noise = Callable[[Rng, Array], Array] | None
"""Activation noise ``(key, activations) -> activations`` of the same shape and dtype, or none."""


def conv2d(lhs: Array, rhs: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """``lax.conv_general_dilated`` without its slow path on the CPU.

    XLA's CPU backend drops to a naive loop, many times slower, where the kernel is larger
    than an image of more than one pixel: the last stage of a VGG. There, and only there, the
    windows are gathered (im2col) and multiplied in one product.

    Args:
      lhs: images [n, h, w, in].
      rhs: kernel [kh, kw, in, out].
      strides: two integers.
      padding: two pairs (before, after).
      **options: those of ``lax.conv_general_dilated``, in the form that ``nn.Conv`` gives them.

    Returns:
      [n, h', w', out].
    """
    kernel_is_larger = any(1 < n < k for n, k in zip(lhs.shape[1:3], rhs.shape[:2], strict=True))
    is_plain = options.get("feature_group_count", 1) == 1 and all(
        set(options.get(dilation) or (1,)) == {1} for dilation in ("lhs_dilation", "rhs_dilation")
    )
    if not (kernel_is_larger and is_plain):
        return lax.conv_general_dilated(lhs, rhs, strides, padding, **options)
    windows = _windows(lhs, rhs.shape[:2], strides, padding)
    return jnp.tensordot(windows, rhs, axes=3, precision=options.get("precision"))


def _windows(images: Array, size: tuple[int, int], strides: Any, padding: Any) -> Array:
    """What the kernel sees at each position: [n, h', w', kh, kw, in]."""
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height, width = (
        (n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], size, strides, strict=True)
    )
    rows, columns = strides
    shifted = [
        padded[
            :, i : i + rows * (height - 1) + 1 : rows, j : j + columns * (width - 1) + 1 : columns
        ]
        for i in range(size[0])
        for j in range(size[1])
    ]
    stacked = jnp.stack(shifted, axis=3)
    return stacked.reshape(*stacked.shape[:3], *size, stacked.shape[-1])


@jax.custom_jvp
def max_pool(x: Array) -> Array:
    """The maxima of windows of 2x2 pixels: [n, h, w, c] -> [n, h // 2, w // 2, c].

    ``nn.max_pool`` with a derivative of its own, of the same values: it goes to the first of the
    largest pixels of a window. That of XLA scatters, which on CPU takes many passes over memory.
    """
    return nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    largest = max_pool(x)
    windows, windows_dot = _by_windows(x), _by_windows(x_dot)
    first = jnp.full(largest.shape, 3, jnp.uint8)
    for corner in (2, 1, 0):
        is_largest = windows[:, :, corner // 2, :, corner % 2] == largest
        first = jnp.where(is_largest, jnp.uint8(corner), first)
    corners = lax.iota(jnp.uint8, 4).reshape(1, 1, 2, 1, 2, 1)
    chosen = first[:, :, None, :, None] == corners
    return largest, jnp.sum(windows_dot, axis=(2, 4), where=chosen)


def _by_windows(x: Array) -> Array:
    """[n, h, w, c] -> [n, h // 2, 2, w // 2, 2, c]."""
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)


def xavier_uniform(rng: Rng, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Kernel [kh, kw, in, out], uniform with variance ``2 / mean fan``: gain sqrt 2.

    Drawn as a vector: the same bits as over four axes, compiled many times faster on CPU.
    """
    *window, fan_in, fan_out = shape
    bound = math.sqrt(12 / (math.prod(window) * (fan_in + fan_out)))
    flat = jax.random.uniform(rng, (math.prod(shape),), dtype, -bound, bound)
    return flat.reshape(shape)


class BatchNorm(nn.BatchNorm):
    """Flax's, with explicit casts.

    Its own are implicit promotions, which ``jax_numpy_dtype_promotion=strict`` forbids.
    """

    def normalise(self, x: Array) -> Array:
        """Over all but the last axis, in ``param_dtype``; shape and dtype kept."""
        return self(x.astype(self.param_dtype)).astype(x.dtype)


def _is_sum(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether a primitive sums, over images or over devices."""
    return primitive.name.startswith(("reduce_sum", "psum"))


TrainedBatchNorm = nn.remat(BatchNorm, policy=_is_sum, methods=["normalise"])
"""The same, but the derivative remembers only what was read, which it needs anyway for that of the
variance, and the sums; it computes the rest again. That takes fewer passes over memory."""


def _conv2d_factory() -> Callable[..., Array]:
    """The form in which ``nn.Conv`` takes a convolution of one's own."""
    return conv2d


def apply_noise(module: nn.Module, noise: Noise, x: Array) -> Array:
    """One site of activation noise, with a key of its own from the stream ``noise``."""
    return x if noise is None else noise(module.make_rng("noise"), x)


def check_images(images: Array, *, model: str, pixels: int = 1) -> None:
    """Refuses what a network cannot read.

    Raises:
      UsageError: ``images`` is not [n, h, w, channels] with h and w of at least ``pixels``.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < pixels:
        raise UsageError(
            f"{model} was given images of shape {list(images.shape)}; it needs "
            f"[n, height, width, channels] of at least {pixels}x{pixels} pixels; "
            "enlarge the images or take another model (small_cnn and the resnets read 8x8)"
        )


@dataclasses.dataclass(frozen=True)
class Layers:
    """The settings that all layers of a network share, and the layers themselves.

    The methods are called inside a Linen module, which then owns the layer they name.
    """

    width: float = 1.0
    """Factor on the number of channels of every layer."""
    conv_bias: bool = False
    """Whether convolutions have a bias."""
    norm_momentum: float = 0.9
    """Share of the running statistics kept at each step."""
    dtype: Any = jnp.float32
    """Of activations; parameters, statistics and logits have ``param_dtype``."""
    axis_name: str | tuple[str, ...] | None = None
    """The mapped axis over which BatchNorm takes its statistics, if any."""
    kept: tuple[tuple[str, int], ...] = ()
    """The number of output channels of every convolution by name, in a network that has lost some;
    empty: as the architecture has it."""

    @property
    def param_dtype(self) -> Any:
        """float32, or float64 when that is what is computed in."""
        return jnp.float64 if jnp.dtype(self.dtype) == jnp.float64 else jnp.float32

    def channels(self, count: int) -> int:
        """``count`` channels at this width; at least 1."""
        return max(1, round(count * self.width))

    def inside(self, block: str) -> "Layers":
        """The layers of a block: of what is called ``BLOCK/NAME`` outside, ``NAME``."""
        prefix = f"{block}/"
        kept = [(name, count) for name, count in self.kept if name.startswith(prefix)]
        return dataclasses.replace(
            self, kept=tuple((name.removeprefix(prefix), count) for name, count in kept)
        )

    def has(self, name: str, *, otherwise: bool) -> bool:
        """Whether there is a convolution ``name``: shapes tell, until channels are removed."""
        return name in dict(self.kept) if self.kept else otherwise

    def conv(self, x: Array, name: str, *, features: int, size: int = 3, stride: int = 1) -> Array:
        """A convolution with ``size // 2`` zeros around: [n, h, w, in] -> [n, h', w', features].

        Xavier-uniform weights with gain sqrt 2, zero bias (the paper's program).
        """
        layer = nn.Conv(
            dict(self.kept).get(name, features),
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=self.conv_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=xavier_uniform,
            conv_general_dilated_cls=_conv2d_factory,
            name=name,
        )
        return layer(x)

    def norm(self, x: Array, name: str, *, train: bool, momentum: float | None = None) -> Array:
        """BatchNorm over all but the last axis, in ``param_dtype``; shape and dtype kept."""
        batch_norm = TrainedBatchNorm if train else BatchNorm
        layer = batch_norm(
            use_running_average=not train,
            momentum=self.norm_momentum if momentum is None else momentum,
            epsilon=1e-5,
            param_dtype=self.param_dtype,
            force_float32_reductions=False,  # reductions in param_dtype, float64 if need be
            axis_name=self.axis_name,  # pyright: ignore[reportArgumentType]: lax takes several
            name=name,
        )
        return layer.normalise(x)

    def conv_norm(
        self, x: Array, name: str, *, features: int, train: bool, size: int = 3, stride: int = 1
    ) -> Array:
        """A convolution ``name`` and the BatchNorm ``name_norm`` that alone reads its output."""
        x = self.conv(x, name, features=features, size=size, stride=stride)
        return self.norm(x, f"{name}_norm", train=train)

    def head(self, x: Array, *, num_classes: int) -> Array:
        """Mean over the image, then a dense layer: [n, h, w, channels] -> logits [n, classes]."""
        layer = nn.Dense(num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")
        return layer(x.mean(axis=(1, 2))).astype(self.param_dtype)
