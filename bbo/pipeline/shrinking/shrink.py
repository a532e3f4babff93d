"""The network of a run, pruned, mended, and rebuilt without its dead channels."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bbo import compaction, pruning
from bbo.compaction.channels import Channels, Cut
from bbo.compaction.staying import Staying
from bbo.compaction.timing import Timed, jax_call
from bbo.data.augmentation import normalize
from bbo.models.create import kept_channels
from bbo.pipeline.configured import model_of
from bbo.pipeline.curve import curve_tools, find_channels
from bbo.pipeline.run import Run, accuracy_on, set_up
from bbo.pipeline.shrinking.goal import Goal, out_of_reach, share_of_time, sparsities_for
from bbo.pipeline.shrinking.unremovable import staying_filters, zero_filters
from bbo.settings.config import ExperimentConfig, override
from bbo.training import preemption
from bbo.training.devices import replicate
from bbo.types import Array, PyTree, RunError

TOLERANCE = 1e-4
"""Largest difference of the logits after removal, as a share of the largest logit, in float32."""
CHECKED_IMAGES = 64
Clock = Callable[[Timed], float]
"""The time of a network as a share of that of the dense one."""


class Shrunk(NamedTuple):
    """A smaller network, and what it was made of."""

    model: nn.Module
    """With the channels that are left."""
    variables: PyTree
    masked: PyTree
    """The variables of the pruned network before removal: as large as they were."""
    cut: Cut
    """What was removed of them."""
    sparsity: float
    """The share of the filters that was to be removed of each group."""
    left: dict[str, float]
    """Shares of what was: ``macs``, ``params`` and, if that was the target, ``latency``."""
    difference: float
    """Of the logits with and without the dead channels, see ``TOLERANCE``."""
    staying: list[Staying]
    """The filters that could not be removed."""


def for_removal(config: ExperimentConfig, **settings: object) -> ExperimentConfig:
    """Settings of a run changed so that filters are pruned clean, in float32 under jit."""
    clean = {"granularity": ("filter",), "meaning": "clean", "prune_norm_scales": False}
    return override(config, dtype="float32", parallel="jit", **clean, **settings)


def shrink(
    run: Run, variables: PyTree, target: Goal, *, round_to: int = 1, clock: Clock | None = None
) -> Shrunk:
    """Prunes a network by the settings of a run, mends it, and removes what is dead.

    Args:
      run: made ready with settings from ``for_removal``; the first of its recoveries is used.
      variables: the trained network.
      target: how far.
      round_to: keep a multiple of this many filters, rounded up, where there are so many.
      clock: for ``latency``, see ``clock_of``; None: against this network.

    Raises:
      UsageError: the target is out of range or out of reach.
      RunError: the small network does not equal the masked one.
    """
    variables = replicate(variables, run.mesh)
    found = find_channels(run, variables)
    tools = curve_tools(run, variables, preemption.poller(preemption.never))
    pruner = tools.prepare("filter")
    clock = clock or clock_of(run, variables, target) if target.measure == "latency" else None
    shares: dict[float, float] = {}

    def masked_at(sparsity: float) -> PyTree:
        return variables | {"params": pruner.at(sparsity, round_to=round_to).params}

    def left_at(sparsity: float) -> float:
        cut = compaction.dead_channels(found, masked := masked_at(sparsity))
        if not clock:
            return compaction.shares_left(variables, cut, run.macs)[target.measure]
        if sparsity not in shares:
            shares[sparsity] = clock(_network(run.config, masked, cut))
        return shares[sparsity]

    for sparsity in sparsities_for(target, left_at):
        mended = tools.mend(run.config.pruning.recovery[0], masked_at(sparsity))
        shrunk = _removed(run, variables, found, mended, sparsity)
        if not clock:
            return shrunk
        # Anew: what is chosen because it measured small is, on average, not as small.
        shares[sparsity] = clock(Timed(shrunk.model.apply, shrunk.variables))
        if shares[sparsity] <= target.share:
            return shrunk._replace(left={**shrunk.left, "latency": shares[sparsity]})
    raise out_of_reach(target, min(shares.values()))


def _removed(
    run: Run, variables: PyTree, found: Channels, masked: PyTree, sparsity: float
) -> Shrunk:
    """The pruned network without its dead channels, compared with it."""
    cut = compaction.dead_channels(found, masked)
    small = compaction.smaller(masked, cut)
    model = model_of(run.config, kept=kept_channels(small["params"]))
    difference = _difference(run, (run.programs.model, masked), (model, small))
    if not difference <= TOLERANCE:
        raise RunError(f"the small network differs from the masked one: {difference:.1e}")
    left = compaction.shares_left(variables, cut, run.macs)
    groups = found.within("params").groups
    meant = run.config.pruning.prune_on or pruning.convolutions
    selected = pruning.eligible(variables["params"], meant)
    stay = [
        *staying_filters(groups, variables["params"], selected),
        *zero_filters(found, masked, cut),
    ]
    return Shrunk(model, small, masked, cut, sparsity, left, difference, stay)


def clock_of(run: Run, variables: PyTree, target: Goal) -> Clock:
    """Measures networks against that of a run, in float32, on the first test images."""
    images = example_images(run, target.batch_size)
    dense = jax_call(Timed(run.programs.model.apply, variables))
    return lambda network: share_of_time(dense, network, images, target)


def _network(config: ExperimentConfig, masked: PyTree, cut: Cut) -> Timed:
    small = compaction.smaller(masked, cut)
    return Timed(model_of(config, kept=kept_channels(small["params"])).apply, small)


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
    info = run.config.data.info
    images = run.images["test"].image[:count].reshape(-1, *info.image_shape)
    return normalize(images, info.mean, info.std, jnp.dtype(jnp.float32))


def accuracy_of(config: ExperimentConfig, variables: PyTree) -> float:
    """The share of test images that a network gets right, whatever its numbers of channels."""
    run = set_up(config, kept=kept_channels(variables["params"]))
    placed = replicate(variables, run.mesh)
    poll = preemption.poller(preemption.never)
    return accuracy_on(run, "test", placed, poll)["test_top1"]
