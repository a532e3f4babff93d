"""What a network costs, counted: parameters, multiply-adds (MACs), bytes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from bbo import trees
from bbo.compaction.channels import Channels, Cut
from bbo.compaction.sizes import sizes_of
from bbo.compaction.tracing.arrays import Arrays, Program, Step
from bbo.compaction.tracing.custom import plain_steps
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.compaction.tracing.program import trace
from bbo.types import Params, PyTree, UsageError


def num_params(params: Params) -> int:
    """Number of trainable numbers."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def layer_macs(model: Any, variables: PyTree, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-adds for one image, by the name of the kernel that does them.

    Counted are convolutions and dense layers, without biases, norms and additions.

    Args:
      model: a Linen network.
      variables: its ``params`` and ``batch_stats``; shapes suffice.
      image_shape: (h, w, c).

    >>> from flax import linen as nn
    >>> variables = {"params": {"kernel": jnp.zeros((3, 3, 2, 4))}}
    >>> layer_macs(nn.Conv(4, (3, 3), use_bias=False), variables, (8, 8, 2))
    {'kernel': 4608}
    """

    from flax import linen as nn  # Here, as nothing else of this room needs it.

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


def count_macs(function: Callable[..., PyTree], variables: PyTree, *inputs: PyTree) -> int:
    """Multiply-adds of ``function(variables, *inputs)``, for the whole batch.

    Counted are matrix products and convolutions, as they are written: also those of weights
    alone, and those whose results are not used. A convolution counts its padding, as published
    numbers do, but not the zeros that a transposed one puts between its inputs. A scan counts all
    of its rounds, a cond its largest branch.

    Args:
      function: any function that jax can trace; nothing is computed.
      variables: its parameters; shapes and dtypes suffice, here and for the inputs.
      *inputs: a batch.

    Raises:
      UsageError: there are products in a while loop, in a kernel, or of ragged arrays.

    >>> from flax import linen as nn
    >>> images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    >>> count_macs(nn.Conv(4, (3, 3), use_bias=False).apply, {"params": {"kernel": kernel}}, images)
    13824
    >>> 2 * 8 * 8 * kernel.size
    13824
    """
    traced = trace(function, variables, *inputs)
    return _program_macs(_whole_shape(traced.arrays), traced.program)


def macs_left(found: Channels, cut: Cut) -> tuple[int, int]:
    """Multiply-adds of a function after a cut and before, counted as by ``count_macs``.

    Args:
      found: its channels.
      cut: of whole channels.

    Raises:
      UsageError: see ``count_macs``.
    """
    traced = found.traced
    left, whole = (
        _program_macs(shape, traced.program)
        for shape in (sizes_of(found, cut).shape, _whole_shape(traced.arrays))
    )
    return left, whole


ShapeOf = Callable[[int], tuple[Any, ...]]
"""The shape of an array of a program, by its number."""


def _whole_shape(arrays: Arrays) -> ShapeOf:
    return lambda ref: shape_of(arrays.avals[ref])


def _program_macs(shape: ShapeOf, program: Program) -> int:
    return sum(_step_macs(shape, step) for step in plain_steps(program.steps))


def _step_macs(shape: ShapeOf, step: Step) -> int:
    name, params = step.primitive.name, step.params
    inner = [_program_macs(shape, program) for program in step.inner]
    if name in PRODUCTS:
        shapes = [shape(ref) for ref in (*step.operands, step.results[0])]
        return PRODUCTS[name](params, *shapes)
    if name == "scan":
        return params["length"] * inner[0]
    if name == "cond":
        return max(inner)
    if any(inner):
        raise UsageError(
            "the multiply-adds of a while loop cannot be counted: how often it runs is not known "
            "before; write it as a scan or as a fori_loop of fixed length, or count one round"
        )
    if _is_or_holds_product(name, params):
        raise UsageError(
            f"the multiply-adds of {name} cannot be counted; write its products as jnp.einsum, "
            "jnp.matmul or lax.conv_general_dilated, outside of kernels and shard_map"
        )
    return 0


def _is_or_holds_product(name: str, params: Mapping[str, Any]) -> bool:
    """Whether a primitive multiplies matrices, or has a program in its parameters that does."""
    return "dot" in name or "matmul" in name or _holds_product(tuple(params.values()))


def _holds_product(value: Any) -> bool:
    value = getattr(value, "jaxpr", value)  # of a closed one
    if isinstance(value, core.Jaxpr):
        names = [(equation.primitive.name, equation.params) for equation in value.eqns]
        return any(name in PRODUCTS or _is_or_holds_product(name, given) for name, given in names)
    return isinstance(value, tuple | list) and any(map(_holds_product, value))


def _dot_general(params: Mapping[str, Any], left: Any, right: Any, result: Any) -> int:
    """Every number of the result is a sum over the axes that are contracted."""
    del right
    (contracted, _), _ = params["dimension_numbers"]
    return math.prod(result) * math.prod(left[axis] for axis in contracted)


def _convolution(params: Mapping[str, Any], images: Any, kernel: Any, result: Any) -> int:
    """Every number of the result is a sum over the inputs of its group and over the window."""
    del images
    numbers = params["dimension_numbers"]
    batch, features, *positions = numbers.out_spec
    _, inputs, *window = numbers.rhs_spec
    settings = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
    moves = zip(*(params[name] for name in settings), strict=True)
    taps = 1
    for axis, size, move in zip(positions, window, moves, strict=True):
        stride, (before, _), spread, dilation = move
        first = stride * np.arange(result[axis]) - before
        read = np.add.outer(first, dilation * np.arange(kernel[size]))
        taps *= int((read % spread == 0).sum())
    return result[batch] * result[features] * kernel[inputs] * taps


PRODUCTS: dict[str, Callable[..., int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
}
"""Multiply-adds of a primitive from its parameters and the shapes of operands and result."""


def array_bytes(tree: PyTree) -> int:
    """Memory of all arrays; ``jax.ShapeDtypeStruct`` will do.

    >>> array_bytes({"kernel": jnp.zeros((3, 4)), "count": jnp.zeros((), jnp.int8)})
    49
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def activation_bytes(function: Callable[..., PyTree], variables: PyTree, *inputs: PyTree) -> int:
    """Memory of what ``function(variables, *inputs)`` computes on the way, where it is most.

    Counted as the program is written: each result is kept from when it is computed until it was
    last read. A compiler may need less, since it computes several primitives as one and writes
    over what is no longer read; what it sets aside itself does not tell, as libraries take their
    own. Arguments do not count; the final result does.

    Args:
      function: any function that jax can trace; it is not run. What happens within a loop or a
        branch counts as nothing but its result.
      variables: its parameters; shapes and dtypes suffice, here and for the inputs.
      *inputs: a batch.

    >>> weights = {"in": jnp.zeros((3, 50)), "out": jnp.zeros((50, 2))}
    >>> activation_bytes(lambda w, x: x @ w["in"] @ w["out"], weights, jnp.zeros((10, 3)))
    2080
    """
    program, arrays, *_ = trace(function, variables, *inputs)
    steps = list(plain_steps(program.steps))
    last = {ref: number for number, step in enumerate(steps) for ref in step.operands}
    last |= dict.fromkeys(program.outputs, len(steps))
    alive: dict[int, int] = {}
    most = 0
    for number, step in enumerate(steps):
        alive |= {ref: _bytes_of(arrays.avals[ref]) for ref in step.results}
        most = max(most, sum(alive.values()))
        alive = {ref: size for ref, size in alive.items() if last.get(ref, -1) > number}
    return most


def _bytes_of(aval: Any) -> int:
    return math.prod(shape_of(aval)) * getattr(aval, "dtype", np.dtype(bool)).itemsize
