"""The network of a run, pruned, mended, and rebuilt without its dead channels."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bbo import compaction, curves, fitting, preemption, pruning, runs, sharding
from bbo import workdir as workdirs
from bbo.catalog import DATASETS
from bbo.config import ExperimentConfig, override
from bbo.data import normalize
from bbo.evaluate import CurveTools
from bbo.models import create_model, kept_channels
from bbo.runs import Run
from bbo.types import Array, PyTree, RunError, UsageError

TOLERANCE = 1e-4
"""Largest difference of the logits after removal, as a share of the largest logit, in float32."""
CHECKED_IMAGES = 64
BISECTIONS = 8


class Shrunk(NamedTuple):
    """A smaller network, and what it was made of."""

    model: nn.Module
    """With the channels that are left."""
    variables: PyTree
    masked: PyTree
    """The variables of the pruned network before removal: as large as they were."""
    sparsity: float
    """The share of the filters that was asked to be removed of each group."""
    macs_compact: float
    """The share of the multiply-adds that is left."""
    difference: float
    """Of the logits with and without the dead channels, see ``TOLERANCE``."""


def for_removal(config: ExperimentConfig, **settings: object) -> ExperimentConfig:
    """Settings of a run changed so that filters are pruned clean, see ``PruningConfig``."""
    clean = {"granularity": ("filter",), "meaning": "clean", "prune_norm_scales": False}
    return override(config, **clean, **settings)


def shrink(
    run: Run,
    variables: PyTree,
    *,
    sparsity: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
) -> Shrunk:
    """Prunes a network by the settings of a run, mends it, and removes what is dead.

    Args:
      run: made ready with settings from ``for_removal``; the first of its recoveries is used.
      variables: the trained network.
      sparsity: share of the filters to remove, in [0, 1).
      macs: instead, the largest share of the multiply-adds to keep, in (0, 1]: the smallest
        sparsity that does, found by bisection.
      round_to: keep a multiple of this many filters, rounded up, where there are so many.

    Raises:
      UsageError: not exactly one of sparsity and macs; too few multiply-adds.
      RunError: the small network does not equal the masked one.
    """
    if (sparsity is None) == (macs is None):
        raise UsageError("give one of sparsity and macs, as in --sparsity=0.5")
    tools = curves.curve_tools(run, variables, preemption.poller(preemption.never))
    masked_at = _masked_at(run, variables, tools, round_to)
    if sparsity is None:
        sparsity = _sparsity_for(macs or 0.0, lambda s: tools.compact(masked_at(s))["macs_compact"])
    masked = tools.recoveries[run.config.pruning.recovery[0]](masked_at(sparsity))
    cut = compaction.dead_channels(curves.find_channels(run, variables), masked)
    small = compaction.smaller(masked, cut)
    model = rebuild(run.config, kept_channels(small["params"]))
    difference = _difference(run, (run.programs.model, masked), (model, small))
    if not difference <= TOLERANCE:
        raise RunError(f"the small network differs from the masked one: {difference:.1e}")
    return Shrunk(model, small, masked, sparsity, tools.compact(masked)["macs_compact"], difference)


def rebuild(config: ExperimentConfig, kept: Mapping[str, int]) -> nn.Module:
    """The network of a configuration with other numbers of channels, for evaluation."""
    num_classes = DATASETS[config.data.dataset].num_classes
    return create_model(config.model, num_classes=num_classes, kept=kept)


def _masked_at(
    run: Run, variables: PyTree, tools: CurveTools, round_to: int
) -> Callable[[float], PyTree]:
    """``sparsity -> variables`` with the filters of lowest rank set to zero."""
    scope = run.config.pruning.scope
    scored = tools.scores("filter")
    ranked = pruning.ranks(scored, scope=scope)

    @jax.jit
    def prune(params: PyTree, counts: dict[str, Array]) -> PyTree:
        masks = pruning.masks(params, ranked, counts, meaning="clean", norm=tools.norms)
        return pruning.apply_masks(params, masks)

    def masked_at(sparsity: float) -> PyTree:
        counts = pruning.drop_counts(scored, sparsity, scope=scope)
        rounded = {
            name: jnp.asarray(_rounded(len(scored[name]), count, round_to), jnp.int32)
            for name, count in counts.items()
        }
        return {**variables, "params": prune(variables["params"], rounded)}

    return masked_at


def _rounded(total: int, dropped: int, round_to: int) -> int:
    """How many to drop so that a multiple is kept, or all.

    >>> _rounded(64, 32, 1), _rounded(64, 30, 8), _rounded(10, 9, 8), _rounded(6, 3, 8)
    (32, 24, 2, 0)
    """
    kept = -(-(total - dropped) // round_to) * round_to
    return max(0, total - kept)


def _sparsity_for(macs: float, share_at: Callable[[float], float]) -> float:
    """The smallest sparsity, to 1 / 2**BISECTIONS, at which at most so much is left."""
    steps = 2**BISECTIONS
    low, high = 0, steps - 1
    if share_at(high / steps) > macs:
        raise UsageError(f"macs is {macs}; the least that pruning can leave is more")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share_at(middle / steps) <= macs else (middle + 1, high)
    return low / steps


def _difference(run: Run, one: tuple[nn.Module, PyTree], other: tuple[nn.Module, PyTree]) -> float:
    """Of the logits of two networks on test images, relative to the largest."""
    images = example_images(run, CHECKED_IMAGES)
    with jax.default_matmul_precision("highest"):
        first, second = (
            np.asarray(jax.jit(functools.partial(model.apply, train=False))(variables, images))
            for model, variables in (one, other)
        )
    return float(np.abs(first - second).max() / np.abs(first).max())


def example_images(run: Run, count: int) -> Array:
    """The first test images as the network reads them: [count, h, w, c], float32."""
    info = DATASETS[run.config.data.dataset]
    return normalize(run.images["test"].image[:count], info.mean, info.std, jnp.dtype(jnp.float32))


def accuracy_of(config: ExperimentConfig, variables: PyTree) -> float:
    """The share of test images that a network gets right, whatever its numbers of channels."""
    run = runs.set_up(config, kept=kept_channels(variables["params"]))
    placed = sharding.replicate(variables, run.mesh)
    poll = preemption.poller(preemption.never)
    return runs.accuracy_on(run, "test", placed, poll)["test_top1"]


def fine_tune(
    shrunk: Shrunk,
    config: ExperimentConfig,
    workdir: pathlib.Path,
    should_stop: preemption.ShouldStop = preemption.never,
    *,
    epochs: int,
    learning_rate: float,
) -> PyTree:
    """Trains a small network further, without noise: what was removed does not come back.

    Args:
      shrunk: from ``shrink``.
      config: of the run.
      workdir: for metrics and checkpoints; the same call goes on from there.
      should_stop: asked throughout, see ``preemption.watch``.
      epochs: of the training.
      learning_rate: at its beginning; it falls to zero by a cosine.

    Returns:
      the variables that ``select`` selects.
    """
    tuning = override(
        config, noise="none", epochs=epochs, learning_rate=learning_rate, schedule="cosine"
    )
    workdirs.claim(workdir, tuning)
    run = runs.set_up(tuning, kept=kept_channels(shrunk.variables["params"]))
    state = run.state._replace(
        params=shrunk.variables["params"], batch_stats=shrunk.variables["batch_stats"]
    )
    run = run._replace(state=sharding.replicate(state, run.mesh))
    with workdirs.held(workdir):
        workdirs.record_start(workdir, tuning)
        return fitting.train_network(run, workdir, should_stop)[0].variables
