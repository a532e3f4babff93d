"""What a network costs: parameters and multiply-adds (MACs)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bbo import trees
from bbo.types import Params, PyTree


def num_params(params: Params) -> int:
    """Number of trainable numbers."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def layer_macs(
    model: nn.Module, variables: PyTree, image_shape: tuple[int, int, int]
) -> dict[str, int]:
    """Multiply-adds for one image, by the name of the kernel that does them.

    Counted are convolutions and dense layers, without biases, norms and additions.

    Args:
      model: a Linen network.
      variables: its ``params`` and ``batch_stats``; shapes suffice.
      image_shape: (h, w, c).

    >>> variables = {"params": {"kernel": jnp.zeros((3, 3, 2, 4))}}
    >>> layer_macs(nn.Conv(4, (3, 3), use_bias=False), variables, (8, 8, 2))
    {'kernel': 4608}
    """

    def is_counted(module: nn.Module, method: str) -> bool:
        return isinstance(module, nn.Conv | nn.Dense) and method == "__call__"

    def outputs(variables: PyTree, image: jax.Array) -> PyTree:
        _, state = model.apply(
            variables, image, capture_intermediates=is_counted, mutable=["intermediates"]
        )
        return state["intermediates"]

    captured = trees.flatten(
        jax.eval_shape(outputs, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    )
    kernels = trees.flatten(variables["params"])
    macs = {}
    for name, output in captured.items():
        kernel = name.removesuffix("__call__/0") + "kernel"
        macs[kernel] = math.prod(output.shape[:-1]) * math.prod(kernels[kernel].shape)
    return macs
