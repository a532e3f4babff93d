"""The network of a run, pruned, mended, and rebuilt without its dead channels."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bbo import compaction, curves, fitting, preemption, pruning, runs, sharding, trees
from bbo import workdir as workdirs
from bbo.catalog import DATASETS
from bbo.channels import Cut
from bbo.config import ExperimentConfig, override
from bbo.data import normalize
from bbo.evaluate import CurveTools
from bbo.models import create_model, kept_channels
from bbo.runs import Run
from bbo.types import Array, PyTree, RunError, UsageError, require

TOLERANCE = 1e-4
"""Largest difference of the logits after removal, as a share of the largest logit, in float32."""
CHECKED_IMAGES = 64
BISECTIONS = 8


class Target(NamedTuple):
    """How far to go."""

    measure: str
    """``sparsity``: the share of the filters to remove; ``macs`` or ``params``: the largest share
    of the multiply-adds or parameters to keep, by the smallest sparsity that does."""
    share: float


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
    """Shares of what was: ``macs`` and ``params``."""
    difference: float
    """Of the logits with and without the dead channels, see ``TOLERANCE``."""


def for_removal(config: ExperimentConfig, **settings: object) -> ExperimentConfig:
    """Settings of a run changed so that filters are pruned clean, in float32 under jit."""
    clean = {"granularity": ("filter",), "meaning": "clean", "prune_norm_scales": False}
    return override(config, dtype="float32", parallel="jit", **clean, **settings)


def shrink(run: Run, variables: PyTree, target: Target, *, round_to: int = 1) -> Shrunk:
    """Prunes a network by the settings of a run, mends it, and removes what is dead.

    Args:
      run: made ready with settings from ``for_removal``; the first of its recoveries is used.
      variables: the trained network.
      target: how far.
      round_to: keep a multiple of this many filters, rounded up, where there are so many.

    Raises:
      UsageError: the target is out of range or out of reach.
      RunError: the small network does not equal the masked one.
    """
    variables = sharding.replicate(variables, run.mesh)
    tools = curves.curve_tools(run, variables, preemption.poller(preemption.never))
    found = curves.find_channels(run, variables)
    masked_at = _masked_at(run, variables, tools, round_to)

    def left_at(sparsity: float) -> dict[str, float]:
        return _left(run, variables, compaction.dead_channels(found, masked_at(sparsity)))

    sparsity = _sparsity_for(target, left_at)
    masked = tools.recoveries[run.config.pruning.recovery[0]](masked_at(sparsity))
    cut = compaction.dead_channels(found, masked)
    small = compaction.smaller(masked, cut)
    model = rebuild(run.config, kept_channels(small["params"]))
    difference = _difference(run, (run.programs.model, masked), (model, small))
    if not difference <= TOLERANCE:
        raise RunError(f"the small network differs from the masked one: {difference:.1e}")
    return Shrunk(model, small, masked, cut, sparsity, _left(run, variables, cut), difference)


def _left(run: Run, variables: PyTree, cut: Cut) -> dict[str, float]:
    """The shares of multiply-adds and of parameters that a cut leaves."""
    small = jax.eval_shape(lambda: compaction.smaller(variables, cut))
    left, whole = (
        {name: leaf.size for name, leaf in trees.flatten(tree["params"]).items()}
        for tree in (small, variables)
    )
    macs = sum(count * left[name] / whole[name] for name, count in run.macs.items())
    return {
        "macs": macs / sum(run.macs.values()),
        "params": sum(left.values()) / sum(whole.values()),
    }


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


def _sparsity_for(target: Target, left_at: Callable[[float], dict[str, float]]) -> float:
    """What a target asks for; of shares to keep the smallest sparsity, to 1 / 2**BISECTIONS."""
    measure, share = target
    if measure == "sparsity":
        require(0 <= share < 1, measure, share, "in [0, 1)")
        return share
    require(0 < share <= 1, measure, share, "in (0, 1]")
    steps = 2**BISECTIONS
    low, high = 0, steps - 1
    least = left_at(high / steps)[measure]
    if least > share:
        raise UsageError(f"{measure} is {share}; pruning can leave no less than {least:.3g}")
    while low < high:
        middle = (low + high) // 2
        enough = left_at(middle / steps)[measure] <= share
        low, high = (low, middle) if enough else (middle + 1, high)
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


def gradual(final: float, iterations: int) -> list[float]:
    """What is removed after each of several iterations: much at first, little at the end.

    A cubic: Zhu and Gupta 2017 (arXiv 1710.01878), equation 1.

    >>> gradual(0.8, 2)
    [0.7, 0.8]
    """
    steps = range(1, iterations + 1)
    return [round(final * (1 - (1 - step / iterations) ** 3), 12) for step in steps]


def shrink_gradually(
    config: ExperimentConfig,
    variables: PyTree,
    target: Target,
    *,
    iterations: int,
    train: Callable[[Shrunk, int], PyTree],
    round_to: int = 1,
) -> Shrunk:
    """Shrinks a network several times, and trains what is left after each.

    Args:
      config: from ``for_removal``.
      variables: the trained network.
      target: to be reached in the end, of the network as it was.
      iterations: how many times, see ``gradual``.
      train: from the shrunk network and the number of the iteration, 0 and on, to its variables.
      round_to: see ``shrink``.

    Returns:
      the last one, trained, with what is left of the whole; ``masked`` and ``cut`` are of its own
      iteration.

    Raises:
      UsageError, RunError: see ``shrink``.
    """
    to_remove = target.share if target.measure == "sparsity" else 1 - target.share
    left, kept, shrunk = {"sparsity": 1.0, "macs": 1.0, "params": 1.0}, None, None
    for number, removed in enumerate(gradual(to_remove, iterations)):
        keep = min(1.0, (1 - removed) / left[target.measure])
        share = 1 - keep if target.measure == "sparsity" else keep
        run = runs.set_up(config, kept=kept)
        shrunk = shrink(run, variables, Target(target.measure, share), round_to=round_to)
        now = {"sparsity": 1 - shrunk.sparsity, **shrunk.left}
        left = {name: share * now[name] for name, share in left.items()}
        variables = train(shrunk, number)
        kept = kept_channels(shrunk.variables["params"])
    if shrunk is None:
        raise UsageError(f"iterations is {iterations}; it must be 1 or more")
    whole = {name: left[name] for name in shrunk.left}
    return shrunk._replace(variables=variables, sparsity=1 - left["sparsity"], left=whole)


def fine_tune(
    variables: PyTree,
    config: ExperimentConfig,
    workdir: pathlib.Path,
    should_stop: preemption.ShouldStop = preemption.never,
    *,
    epochs: int,
    learning_rate: float,
) -> PyTree:
    """Trains a small network further, without noise: what was removed does not come back.

    Args:
      variables: of a network that has lost channels.
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
    run = runs.set_up(tuning, kept=kept_channels(variables["params"]))
    state = run.state._replace(params=variables["params"], batch_stats=variables["batch_stats"])
    run = run._replace(state=sharding.replicate(state, run.mesh))
    with workdirs.held(workdir):
        workdirs.record_start(workdir, tuning)
        return fitting.train_network(run, workdir, should_stop)[0].variables
