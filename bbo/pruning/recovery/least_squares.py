"""The weights that are left, refitted by least squares to do the work of the removed ones."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.scipy.sparse.linalg import cg

from bbo import trees
from bbo.types import Array, Params, PyTree, UsageError

CHUNK = 128
"""Images whose patches are in memory at a time."""
MAX_ITERATIONS = 100
TOLERANCE = 1e-5
"""Of the solver: the norm of the residual over all outputs, as a share of the right-hand side's."""


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
            problem = _Problem(layer, args[0], targets[path], has_norm or layer.use_bias)
            for name, value in _fit(problem, layer.variables["params"], ridge).items():
                layer.put_variable("params", name, value)
        return call(*args, **kwargs)

    with nn.intercept_methods(mend):
        _, updates = model.apply(pruned, images, train=True, mutable=["params", "batch_stats"])
    return {**pruned, "params": updates["params"]}


class _Problem(NamedTuple):
    """What a layer reads, and what it should put out."""

    layer: Any
    x: Array
    """[n, ..., in]."""
    target: Array
    """[n, ..., out]."""
    has_constant: bool
    """Whether a constant may be added to each channel."""


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


def _fit(problem: _Problem, params: Params, ridge: float) -> Params:
    """The layer's parameters, moved so that its output is closest to the target."""
    kernel, bias = params["kernel"], params.get("bias")
    *window, channels, out = kernel.shape
    # In the order of patches: [in * kh * kw, out].
    rows = jnp.moveaxis(kernel, -2, 0).reshape(-1, out)
    kept = rows != 0
    if problem.has_constant:
        constant = jnp.zeros(out, kernel.dtype) if bias is None else bias
        rows = jnp.concatenate([rows, constant[None]])
        kept = jnp.concatenate([kept, (constant != 0)[None] | (bias is None)])
    rows = rows.astype(kernel.dtype if jnp.finfo(kernel.dtype).bits >= 32 else jnp.float32)
    with jax.default_matmul_precision("highest"):
        gram, cross = _moments(problem, kernel, rows)
        rows = (rows + solve(gram, cross, kept, ridge)).astype(kernel.dtype)
    moved = rows[: math.prod(window) * channels].reshape(channels, *window, out)
    fitted = {"kernel": jnp.moveaxis(moved, 0, -2)}
    return fitted if bias is None else fitted | {"bias": rows[-1]}


def _moments(problem: _Problem, kernel: Array, rows: Array) -> tuple[Array, Array]:
    """Means over examples and positions of ``a a'`` and ``a (y - a' rows)'``.

    ``a``: what the layer reads, and 1 for a constant; ``y``: the target. Accumulated over chunks
    of images.
    """
    x, target = problem.x, problem.target

    def add(sums: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[Any, None]:
        read, wanted = _patches(problem.layer, chunk[0], kernel), chunk[1]
        if problem.has_constant:
            read = jnp.concatenate([read, jnp.ones_like(read[..., :1])], axis=-1)
        read, wanted = (y.reshape(-1, y.shape[-1]).astype(rows.dtype) for y in (read, wanted))
        return (sums[0] + read.T @ read, sums[1] + read.T @ (wanted - read @ rows)), None

    zeros = jnp.zeros((len(rows), len(rows)), rows.dtype), jnp.zeros_like(rows)
    sums, _ = lax.scan(add, zeros, (_chunked(x), _chunked(target)))
    positions = target.size // target.shape[-1]
    return sums[0] / positions, sums[1] / positions


def _chunked(x: Array) -> Array:
    """[n, ...] to [chunks, n / chunks, ...], of at most CHUNK rows each.

    A chunk takes every so-many-th row, so that rows spread over devices stay where they are.
    """
    chunks = next(k for k in range(-(-len(x) // CHUNK), len(x) + 1) if len(x) % k == 0)
    return jnp.moveaxis(x.reshape(len(x) // chunks, chunks, *x.shape[1:]), 1, 0)


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


def solve(gram: Array, cross: Array, kept: Array, ridge: float) -> Array:
    """The ``d``, zero off ``kept``, of the smallest ``tr(d' (gram + lambda) d) - 2 tr(d' cross)``.

    By conjugate gradients, preconditioned by the inverse of the whole matrix: the first step is
    exact where ``kept`` has whole columns.

    Args:
      gram: [n, n], positive semi-definite.
      cross: [n, out].
      kept: bool [n, out].
      ridge: ``lambda`` as a share of the mean of the diagonal of ``gram``.

    >>> gram, cross = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[4.0], [5.0]])
    >>> solve(gram, cross, jnp.array([[True], [False]]), 0.0).round(5).tolist()
    [[2.0], [0.0]]
    """
    level = jnp.maximum(ridge * jnp.mean(jnp.diag(gram)), jnp.finfo(gram.dtype).tiny)
    damped = gram + level * jnp.eye(len(gram), dtype=gram.dtype)
    inverse = jnp.linalg.inv(damped)

    def restricted(matrix: Array, d: Array) -> Array:
        return jnp.where(kept, matrix @ d, 0)

    change, _ = cg(
        lambda d: restricted(damped, d),
        jnp.where(kept, cross, 0),
        M=lambda d: restricted(inverse, d),
        tol=TOLERANCE,
        maxiter=MAX_ITERATIONS,
    )
    return change
