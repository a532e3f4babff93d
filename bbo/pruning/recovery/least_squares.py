"""The weights that are left, refitted by least squares to do the work of the removed ones."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bbo import trees
from bbo.pruning.recovery.solver import Problem, fit
from bbo.types import Array, Params, PyTree, UsageError


def refit(
    model: nn.Module,
    dense: PyTree,
    pruned: PyTree,
    images: Array,
    *,
    norm: Callable[[str], str] | None = None,
    ridge: float = 1e-3,
) -> PyTree:
    """Refits each convolution and dense layer of a pruned network to the network it was.

    In one forward pass, layer by layer: with ``X`` what a layer reads in the pruned network, whose
    earlier layers are refitted by then, and ``Y`` what it put out before pruning, the kernel ``W``
    becomes the ``W'`` of the smallest ``|Y - X W' - c'|**2 + lambda (|W' - W|**2 + |c' - c|**2)``,
    the first term a mean over images and positions. The constant ``c`` is the layer's bias, and
    ``c'`` the new one. Without a bias ``c`` is zero; ``c'`` is then fitted where a norm follows,
    which takes it off, and else zero too. Entries of ``W`` and of a bias that are zero count as
    removed and stay zero. A network that has lost nothing stays as it is, up to rounding.

    BatchNorm takes its statistics from ``images``, in both networks: running statistics do not
    matter, and those of the result have to be estimated anew. Grouped convolutions, and layers
    that are neither ``nn.Conv`` nor ``nn.Dense``, are left as they are.

    Costs two forward passes and, for each kernel [kh, kw, in, out], ``(kh kw in)**2`` multiply-adds
    at each position and the inverse of a matrix of ``kh kw in`` rows. Holds the activations of all
    images at once.

    Args:
      model: a Linen network, called as ``model.apply(variables, images, train=True)``.
      dense: its variables before pruning.
      pruned: the same with entries set to zero.
      images: [n, h, w, c], of the training set.
      norm: from a kernel's name to that of the norm behind it, if any, as for ``masking.masks``.
      ridge: ``lambda``, as a share of the mean square of what a layer reads, > 0.

    Returns:
      the pruned variables with new ``params``.

    Raises:
      UsageError: a layer is called more than once.

    References: He et al. 2017 (arXiv 1707.06168), equation 6, there without the ridge.
    """
    targets, names = (
        layer_outputs(model, dense, images),
        trees.flatten(pruned.get("batch_stats", {})),
    )

    def mend(call: Any, args: tuple, kwargs: dict, context: Any) -> Array:
        if is_fitted(context):
            layer, path = context.module, context.module.path
            kernel = "/".join((*path, "kernel"))
            has_norm = norm is not None and f"{norm(kernel)}/mean" in names
            for name, value in _fit(layer, args[0], targets[path], has_norm, ridge).items():
                layer.put_variable("params", name, value)
        return call(*args, **kwargs)

    with nn.intercept_methods(mend):
        _, updates = model.apply(pruned, images, train=True, mutable=["params", "batch_stats"])
    return {**pruned, "params": updates["params"]}


def is_fitted(context: Any) -> bool:
    """Whether a call is that of a layer, inside a network, that can be refitted."""
    layer = context.module
    is_linear = isinstance(layer, nn.Dense) or (
        isinstance(layer, nn.Conv) and layer.feature_group_count == 1
    )
    return is_linear and context.method_name == "__call__" and bool(layer.path)


def layer_outputs(
    model: nn.Module, variables: PyTree, images: Array
) -> dict[tuple[str, ...], Array]:
    """What each layer puts out, by its path."""
    found = {}

    def record(call: Any, args: tuple, kwargs: dict, context: Any) -> Array:
        output = call(*args, **kwargs)
        if is_fitted(context):
            if context.module.path in found:
                raise UsageError(
                    f"layer {'/'.join(context.module.path)} is called more than once; least "
                    "squares fits one output for each layer; take another recovery"
                )
            found[context.module.path] = output
        return output

    with nn.intercept_methods(record):
        model.apply(variables, images, train=True, mutable=["batch_stats"])
    return found


def _fit(layer: Any, x: Array, target: Array, has_norm: bool, ridge: float) -> Params:
    """The layer's parameters, moved so that its output is closest to the target."""
    params = layer.variables["params"]
    kernel, bias = params["kernel"], params.get("bias")
    *window, channels, out = kernel.shape
    problem = Problem(
        lambda chunk: _patches(layer, chunk, kernel), x, target, has_norm or layer.use_bias
    )
    # In the order of patches: [in * kh * kw, out].
    rows = fit(problem, jnp.moveaxis(kernel, -2, 0).reshape(-1, out), bias, ridge)
    moved = rows[: math.prod(window) * channels].reshape(channels, *window, out)
    fitted = {"kernel": jnp.moveaxis(moved, 0, -2)}
    return fitted if bias is None else fitted | {"bias": rows[-1]}


def _patches(layer: Any, x: Array, kernel: Array) -> Array:
    """What a layer reads at each position: [n, ..., in] to [n, ..., in * kh * kw].

    Through the layer itself with the identity for its kernel, so that strides, padding and
    dilation are its own.
    """
    if isinstance(layer, nn.Dense):
        return x
    *window, channels, _ = kernel.shape
    size = math.prod(window)
    identity = jnp.tile(jnp.eye(size, dtype=kernel.dtype), channels)
    reader = layer.clone(
        features=size * channels, feature_group_count=channels, use_bias=False, parent=None
    )
    return reader.apply({"params": {"kernel": identity.reshape(*window, 1, -1)}}, x)
