"""Pruning and training in turn: what is left is trained again after each pruning."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import curves, fitting, preemption, pruning, sharding
from bbo.config import ExperimentConfig, override
from bbo.preemption import Poll, ShouldStop
from bbo.runs import Network, Run, set_up, variables_of
from bbo.train import TrainState
from bbo.types import Masks, PyTree


class Stage(NamedTuple):
    """A network that was trained, then pruned and measured."""

    folder: pathlib.Path
    """With its metrics and checkpoints."""
    network: Network
    rows: list[dict[str, Any]]
    """Of the pruning curve, see ``curves.prune_network``."""


def removed_after(final: float, iterations: int, schedule: str = "cubic") -> list[float]:
    """The share that is removed after each of several iterations.

    Args:
      final: after the last one, in [0, 1).
      iterations: how many.
      schedule: ``cubic``: much at first, little at the end (Zhu and Gupta 2017, arXiv 1710.01878,
        equation 1); ``linear``; ``geometric``: the same share of what is left each time (Frankle
        and Carbin 2019, arXiv 1803.03635).

    >>> removed_after(0.8, 2)
    [0.7, 0.8]
    >>> removed_after(0.75, 2, "geometric"), removed_after(0.9, 3, "linear")
    ([0.5, 0.75], [0.3, 0.6, 0.9])
    """
    shares = {
        "cubic": lambda done: final * (1 - (1 - done) ** 3),
        "linear": lambda done: final * done,
        "geometric": lambda done: 1 - (1 - final) ** done,
    }
    share = shares[schedule]
    return [
        round(share(step / iterations), 4) if step < iterations else final
        for step in range(1, iterations + 1)
    ]


def train_and_prune(run: Run, workdir: pathlib.Path, should_stop: ShouldStop) -> list[Stage]:
    """Trains a network and prunes it once at every sparsity, or prunes and trains it in turn.

    Args:
      run: from ``runs.set_up``.
      workdir: of the run; what is trained after pruning ``i`` lies in its folder ``iteration_i``.
      should_stop: asked throughout.

    Returns:
      one stage, or of each iteration one, and before them that of the whole network.

    Raises:
      Preempted: by ``should_stop``; the same call goes on from there.
      RunError: the loss is no longer a number.
    """
    config = run.config.iterations
    network, count = fitting.train_network(run, workdir, should_stop)
    poll = preemption.poller(should_stop, count)
    if config.prune_iterations == 1:
        return [Stage(workdir, network, curves.prune_network(run, network, workdir, poll))]
    again = set_up(_after_pruning(run.config), like=run)
    shares = removed_after(config.prune_to, config.prune_iterations, config.prune_schedule)
    stages = [Stage(workdir, network, _point(run, network, workdir, poll, 0.0))]
    for number, share in enumerate(shares, 1):
        fitting.tell(f"iteration {number} of {len(shares)}: {100 * share:.1f} % removed")
        folder = workdir / f"iteration_{number}"
        masks = _masks(run, network.variables, poll, share)
        first = variables_of(run.state) if config.rewind else network.variables
        begun = _masked(_stirred(again, number), first, masks)
        network, count = fitting.train_network(begun, folder, should_stop, start=poll())
        poll = preemption.poller(should_stop, count)
        stages.append(Stage(folder, network, _point(again, network, folder, poll, share)))
    return stages


def _after_pruning(config: ExperimentConfig) -> ExperimentConfig:
    """How what is left is trained."""
    iterations = config.iterations
    rate = config.optimizer.learning_rate if iterations.rewind else iterations.retrain_rate
    return override(config, epochs=iterations.retrain_epochs, learning_rate=rate)


def _point(
    run: Run, network: Network, folder: pathlib.Path, poll: Poll, sparsity: float
) -> list[dict[str, Any]]:
    """The rows of one sparsity, to which the network has been pruned already."""
    here = run._replace(config=override(run.config, sparsities=(sparsity,)))
    return curves.prune_network(here, network, folder, poll)


def _masks(run: Run, variables: PyTree, poll: Poll, sparsity: float) -> Masks:
    """What is left at a sparsity: like the parameters, a bool for each number."""
    config, tools = run.config.pruning, curves.curve_tools(run, variables, poll)
    scored = tools.scores(*config.granularity)
    ranked = pruning.ranks(scored, scope=config.scope)
    counts = pruning.drop_counts(scored, sparsity, scope=config.scope)
    params = variables["params"]
    masks = pruning.masks(params, ranked, counts, meaning=config.meaning, norm=tools.norms)
    return jax.tree.map(lambda leaf, mask: jnp.broadcast_to(mask, leaf.shape), params, masks)


def _masked(run: Run, variables: PyTree, masks: Masks) -> Run:
    """The run that begins with these variables, of which what is masked is zero and stays so."""
    params = pruning.apply_masks(variables["params"], masks)
    opt_state: Any = run.optimizer.init(params)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        variables["batch_stats"],
        opt_state._replace(masks=masks),
    )
    return run._replace(state=sharding.replicate(state, run.mesh))


def _stirred(run: Run, number: int) -> Run:
    """The run with other randomness: of batches, augmentation and noise."""
    rngs = {name: jax.random.fold_in(rng, number) for name, rng in run.rngs.items()}
    rng = sharding.replicate(rngs["train"], run.mesh)
    train_images = run.images["train"]._replace(rng=rng)
    return run._replace(rngs=rngs, images=run.images | {"train": train_images})
