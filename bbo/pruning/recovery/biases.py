"""What mends a pruned network without training it."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bbo import least_squares, trees
from bbo.types import Array, PyTree


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
        called ``mean`` and ``var`` ([channels], variance without Bessel's correction).
      variables: ``params`` and ``batch_stats`` of the pruned network.
      batches: of equal size.

    Returns:
      the variables with new ``batch_stats``.

    References: the re-estimation of Wu & Johnson 2021, "Rethinking Batch in BatchNorm".
    """
    sums, count = None, 0
    for batch in batches:
        raw = _raw_moments(batch_moments(variables, batch))
        sums = raw if sums is None else jax.tree.map(jnp.add, sums, raw)
        count += 1
    if sums is None:
        raise ValueError("no batches to estimate statistics from")
    return variables | {"batch_stats": _pooled(sums, count)}


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
      norm: from a kernel's name to that of the norm behind it, if any, as for ``pruning.masks``.

    Returns:
      the pruned variables with new ``params``.

    Raises:
      UsageError: a layer is called more than once.

    References: bias correction, Nagel et al. 2019 (arXiv 1906.04721), section 4.2, there for
    quantisation.
    """
    wanted = least_squares.layer_outputs(model, dense, images)
    norms = trees.flatten(pruned.get("batch_stats", {}))

    def mend(call: Any, args: tuple, kwargs: dict, context: Any) -> Array:
        output, layer = call(*args, **kwargs), context.module
        if not (least_squares.is_fitted(context) and layer.use_bias):
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
