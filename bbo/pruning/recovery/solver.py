"""Least squares for the kernel of one layer, with entries that stay zero."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from bbo.types import Array

CHUNK = 128
"""Images whose patches are in memory at a time."""
MAX_ITERATIONS = 100
TOLERANCE = 1e-5
"""Of the solver: the norm of the residual over all outputs, as a share of the right-hand side's."""


class Problem(NamedTuple):
    """What a layer reads, and what it should put out."""

    patches: Callable[[Array], Array]
    """What the layer reads at each position of some images: [n, ..., features]."""
    x: Array
    """[n, ...]."""
    target: Array
    """[n, ..., out]."""
    has_constant: bool
    """Whether a constant may be added to each channel."""


def fit(problem: Problem, rows: Array, bias: Array | None, ridge: float) -> Array:
    """A kernel, moved so that the layer's output is closest to the target; zeros stay zero.

    Args:
      problem: see there.
      rows: the kernel, [features, out].
      bias: [out]; None: a constant, if there is to be one, is zero before and free.
      ridge: see ``solve``.

    Returns:
      the new rows, in the dtype of the kernel; the constant below them, if the problem has one.
    """
    dtype, out = rows.dtype, rows.shape[-1]
    kept = rows != 0
    if problem.has_constant:
        constant = jnp.zeros(out, dtype) if bias is None else bias
        rows = jnp.concatenate([rows, constant[None]])
        kept = jnp.concatenate([kept, (constant != 0)[None] | (bias is None)])
    rows = rows.astype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)
    with jax.default_matmul_precision("highest"):
        gram, cross = _moments(problem, rows)
        return (rows + solve(gram, cross, kept, ridge)).astype(dtype)


def _moments(problem: Problem, rows: Array) -> tuple[Array, Array]:
    """Means over examples and positions of ``a a'`` and ``a (y - a' rows)'``.

    ``a``: what the layer reads, and 1 for a constant; ``y``: the target. Accumulated over chunks
    of images.
    """
    x, target = problem.x, problem.target

    def add(sums: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[Any, None]:
        read, wanted = problem.patches(chunk[0]), chunk[1]
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
