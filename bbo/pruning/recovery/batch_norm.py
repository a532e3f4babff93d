"""BatchNorm statistics estimated anew, by a function that gives those of a batch."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.types import Array, PyTree, UsageError


def reestimate_batch_norm(
    batch_moments: Callable[[PyTree, Any], PyTree], variables: PyTree, batches: Iterable[Any]
) -> PyTree:
    """BatchNorm statistics of the given parameters: exact moments pooled over equal batches.

    Training collects the statistics under the noise and before pruning; the noise makes the
    running variance too large. Each batch is normalised by its own moments on the way, as in
    training; then the pooled mean is the mean of batch means, and the pooled variance the mean of
    batch mean squares less the square of the pooled mean. No gradient.

    Every channel behind a norm thereby has the mean and variance that it had before pruning, so
    that neither REPAIR (Jordan et al. 2022, arXiv 2211.08403) nor folding in the mean of what a
    removed filter emitted has anything left to do there. Where no norm follows, ``correct_biases``
    has.

    Args:
      batch_moments: compiled ``(variables, batch) -> statistics`` of one batch, a tree with leaves
        called ``mean`` and ``var`` ([channels], variance without Bessel's correction). For
        functions that move running statistics, with any momentum, see ``statistics.reestimate``.
      variables: ``params`` and ``batch_stats`` of the pruned network.
      batches: of equal size.

    Returns:
      the variables with new ``batch_stats``.

    Raises:
      UsageError: the batches differ in size, the statistics of one depend on the old ones, or there
        is no batch.

    References: the re-estimation of Wu & Johnson 2021, "Rethinking Batch in BatchNorm".
    """
    sums, count, shapes = None, 0, None
    for batch in batches:
        found = batch_moments(variables, batch)
        if sums is None:
            shapes = _shapes(batch)
            _check_no_momentum(found, batch_moments, variables, batch)
        elif _shapes(batch) != shapes:
            raise UsageError(
                f"a batch has arrays of shapes {_shapes(batch)}, the first one {shapes}; they must "
                "be of equal size; recovery.reestimate takes batches of any sizes"
            )
        raw = _raw_moments(found)
        sums = raw if sums is None else jax.tree.map(jnp.add, sums, raw)
        count += 1
    if sums is None:
        raise UsageError("there are no batches to estimate statistics from; give one at least")
    return variables | {"batch_stats": _pooled(sums, count)}


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]


def _check_no_momentum(
    found: PyTree, batch_moments: Callable[[PyTree, Any], PyTree], variables: PyTree, batch: Any
) -> None:
    """From other old statistics, those of the batch must come out the same."""
    other = jax.tree.map(lambda x: x + 1, variables.get("batch_stats"))
    again = batch_moments(variables | {"batch_stats": other}, batch)
    for name, leaf in trees.flatten(again).items():
        if not jnp.array_equal(leaf, trees.flatten(found)[name], equal_nan=True):
            raise UsageError(
                f"batch_moments(variables, batch) gives a {name} that depends on the old one; the "
                "norms need momentum=0, or take recovery.reestimate, which goes with any momentum"
            )


@jax.jit
def _raw_moments(stats: PyTree) -> PyTree:
    """Variances replaced by mean squares, which may be averaged."""
    means = _partner(stats, "var", "mean")
    return trees.map_named(
        lambda name, x: x + jnp.square(means[name]) if name in means else x, stats
    )


@jax.jit
def _pooled(sums: PyTree, count: Array) -> PyTree:
    pooled = jax.tree.map(lambda x: x / count, sums)
    means = _partner(pooled, "var", "mean")
    return trees.map_named(
        lambda name, x: jnp.maximum(x - jnp.square(means[name]), 0) if name in means else x, pooled
    )


def _partner(tree: PyTree, of: str, partner: str) -> dict[str, Array]:
    """For each leaf called ``.../of``, by name: the leaf ``.../partner`` beside it."""
    leaves = trees.flatten(tree)
    return {
        name: leaves[name.removesuffix(of) + partner]
        for name in leaves
        if name.rpartition("/")[2] == of
    }
