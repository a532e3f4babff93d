"""Biases that give outputs back the mean that they had before pruning."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bbo import trees
from bbo.pruning.recovery.least_squares import is_fitted, layer_outputs
from bbo.types import Array, PyTree


def correct_biases(
    model: nn.Module,
    dense: PyTree,
    pruned: PyTree,
    images: Array,
    *,
    norm: Callable[[str], str] | None = None,
) -> PyTree:
    """Folds the mean of what removed filters emitted into the biases of the layers that read them.

    Layer by layer, the bias of each convolution and dense layer with no norm behind is moved so
    that each output has the mean over ``images`` that it had before pruning. A bias of zero beside
    weights of zero counts as removed and stays.

    BatchNorm takes its statistics from ``images``, in both networks.

    Args:
      model: a Linen network, called as ``model.apply(variables, images, train=True)``.
      dense: its variables before pruning.
      pruned: the same with entries set to zero.
      images: [n, h, w, c], of the training set.
      norm: from a kernel's name to that of the norm behind it, if any, as for ``masking.masks``.

    Returns:
      the pruned variables with new ``params``.

    Raises:
      UsageError: a layer is called more than once.

    References: bias correction, Nagel et al. 2019 (arXiv 1906.04721), section 4.2, there for
    quantisation.
    """
    wanted = layer_outputs(model, dense, images)
    norms = trees.flatten(pruned.get("batch_stats", {}))

    def mend(call: Any, args: tuple, kwargs: dict, context: Any) -> Array:
        output, layer = call(*args, **kwargs), context.module
        if not (is_fitted(context) and layer.use_bias):
            return output
        if norm is not None and f"{norm('/'.join((*layer.path, 'kernel')))}/mean" in norms:
            return output
        params = layer.variables["params"]
        kernel, bias = params["kernel"], params["bias"]
        axes = tuple(range(output.ndim - 1))
        shift = jnp.mean(wanted[layer.path] - output, axis=axes)
        removed = (bias == 0) & jnp.all(kernel == 0, axis=tuple(range(kernel.ndim - 1)))
        shift = jnp.where(removed, jnp.zeros_like(shift), shift)
        layer.put_variable("params", "bias", bias + shift.astype(bias.dtype))
        return output + shift

    with nn.intercept_methods(mend):
        _, updates = model.apply(pruned, images, train=True, mutable=["params", "batch_stats"])
    return {**pruned, "params": updates["params"]}
