"""The recoveries by name: each takes a network before and after pruning to a mended one."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bbo.pruning.recovery.batch_norm import reestimate_batch_norm
from bbo.pruning.recovery.biases import correct_biases
from bbo.pruning.recovery.least_squares import refit
from bbo.types import PyTree


class Context(NamedTuple):
    """The training images that a recovery may look at, and what it may do with them."""

    batches: Callable[[], Iterable[Any]]
    """All of them, in equal batches, from the beginning."""
    moments: Callable[[PyTree, Any], PyTree]
    """``(variables, batch) -> statistics``, see ``batch_norm.reestimate_batch_norm``."""
    layer_by_layer: Callable[[Callable[..., PyTree], PyTree, PyTree], PyTree]
    """``(mend, dense, pruned) -> variables``: ``mend(model, dense, pruned, images, norm=...)`` on
    one large batch of images, compiled."""


Recovery = Callable[[Context, PyTree, PyTree], PyTree]
"""``(context, dense, pruned) -> variables``, of the variables before and after pruning."""


def none(context: Context, dense: PyTree, pruned: PyTree) -> PyTree:
    """As pruned."""
    del context, dense
    return pruned


def batch_norm(context: Context, dense: PyTree, pruned: PyTree) -> PyTree:
    """BatchNorm statistics estimated anew."""
    del dense
    return reestimate_batch_norm(context.moments, pruned, context.batches())


def bias(context: Context, dense: PyTree, pruned: PyTree) -> PyTree:
    """Outputs with no norm behind get back their mean; then ``batch_norm``."""
    return batch_norm(context, dense, context.layer_by_layer(correct_biases, dense, pruned))


def least_squares(context: Context, dense: PyTree, pruned: PyTree) -> PyTree:
    """The weights that are left are refitted to what each layer put out; then ``batch_norm``."""
    return batch_norm(context, dense, context.layer_by_layer(refit, dense, pruned))


FUNCTIONS: dict[str, Recovery] = {
    "none": none,
    "batch_norm": batch_norm,
    "bias": bias,
    "least_squares": least_squares,
}
"""What does each of ``catalog.RECOVERIES``."""
