"""Convolutions and matrix products as one: ``[positions, features]`` times ``[features, out]``."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from bbo.compaction.tracing.arrays import Step
from bbo.types import Array


class Dense(NamedTuple):
    """A ``dot_general`` without batch axes."""

    kernel_ndim: int
    kernel_axes: tuple[int, ...]
    """Of the kernel, contracted."""
    input_axes: tuple[int, ...]
    """Of the other operand, those contracted with them."""
    kernel_first: bool

    def rows(self, kernel: Any) -> Any:
        """The kernel, or an array like it, as [features, out]."""
        features = math.prod(kernel.shape[axis] for axis in self.kernel_axes)
        order = self.kernel_axes + _others(kernel.ndim, self.kernel_axes)
        return kernel.transpose(order).reshape(features, -1)

    def inputs(self, x: Array) -> Array:
        """[n, ..., features]; n is 1 where the product reads a single vector."""
        free = _others(x.ndim, self.input_axes)
        sizes = [x.shape[axis] for axis in free] or [1]
        features = math.prod(x.shape[axis] for axis in self.input_axes)
        return x.transpose(free + self.input_axes).reshape(*sizes, features)

    def patches(self, x: Array) -> Array:
        """What is read at each position, of what ``inputs`` gives."""
        return x

    def outputs(self, y: Array) -> Array:
        """The result as [n, ..., out]."""
        free = self.kernel_ndim - len(self.kernel_axes)
        axes = range(free) if self.kernel_first else range(y.ndim - free, y.ndim)
        others = _others(y.ndim, tuple(axes))
        sizes = [y.shape[axis] for axis in others] or [1]
        return y.transpose(others + tuple(axes)).reshape(*sizes, -1)

    def channels(self, shape: tuple[int, ...]) -> np.ndarray:
        """For a result of that shape, which output of the matrix stands where, from 1."""
        free = self.kernel_ndim - len(self.kernel_axes)
        sizes = shape[:free] if self.kernel_first else shape[len(shape) - free :]
        numbers = _numbers(sizes)
        behind = len(shape) - free if self.kernel_first else 0
        return np.broadcast_to(numbers.reshape(sizes + (1,) * behind), shape)


class Convolution(NamedTuple):
    """A ``conv_general_dilated`` without groups, the kernel its second operand."""

    params: dict[str, Any]
    kernel_shape: tuple[int, ...]

    def rows(self, kernel: Any) -> Any:
        """The kernel, or an array like it, as [features, out]."""
        out, *rest = self.params["dimension_numbers"].rhs_spec
        return kernel.transpose(*rest, out).reshape(-1, kernel.shape[out])

    def inputs(self, x: Array) -> Array:
        """[n, in, ...]."""
        return x.transpose(self.params["dimension_numbers"].lhs_spec)

    def patches(self, x: Array) -> Array:
        """What is read at each position, of what ``inputs`` gives: [n, ..., in * window].

        By the convolution itself with the identity for its kernel, so that strides, padding and
        dilation are its own.
        """
        _, channels, *window = (
            self.kernel_shape[axis] for axis in self.params["dimension_numbers"].rhs_spec
        )
        size = math.prod(window)
        identity = jnp.tile(jnp.eye(size, dtype=x.dtype), (channels, 1))
        same = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
        spatial = tuple(range(2, x.ndim))
        found = lax.conv_general_dilated(
            x,
            identity.reshape(size * channels, 1, *window),
            **{name: self.params[name] for name in same},
            dimension_numbers=lax.ConvDimensionNumbers(
                (0, 1, *spatial), (0, 1, *spatial), (0, 1, *spatial)
            ),
            feature_group_count=channels,
            precision=lax.Precision.HIGHEST,
        )
        return jnp.moveaxis(found, 1, -1)

    def outputs(self, y: Array) -> Array:
        """The result as [n, ..., out]."""
        number, out, *spatial = self.params["dimension_numbers"].out_spec
        return y.transpose(number, *spatial, out)

    def channels(self, shape: tuple[int, ...]) -> np.ndarray:
        """For a result of that shape, which output of the matrix stands where, from 1."""
        axis = self.params["dimension_numbers"].out_spec[1]
        sizes = [1] * len(shape)
        sizes[axis] = shape[axis]
        return np.broadcast_to(_numbers(sizes), shape)


Product = Dense | Convolution
PRODUCTS = ("dot_general", "conv_general_dilated")
"""The primitives."""


def product_of(step: Step, place: int, kernel_shape: tuple[int, ...]) -> Product | str:
    """The product that a step is with a kernel at that place, or why it cannot be taken as one."""
    if step.primitive.name == "dot_general":
        contracted, batch = step.params["dimension_numbers"]
        if batch[0]:
            return "it is a stack of kernels, one for each part of what it is multiplied with"
        axes = [tuple(map(int, axes)) for axes in contracted]
        return Dense(len(kernel_shape), axes[place], axes[1 - place], place == 0)
    if place == 0:
        return "something slides over it as a kernel does"
    if step.params["feature_group_count"] != 1 or step.params["batch_group_count"] != 1:
        return "its convolution is grouped"
    return Convolution(step.params, kernel_shape)


def _numbers(shape: Sequence[int]) -> np.ndarray:
    return 1.0 + np.arange(math.prod(shape)).reshape(shape)


def _others(ndim: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if axis not in axes)
