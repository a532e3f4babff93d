"""Pruning and training in turn: what is left is trained again after each pruning."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import pruning
from bbo.pipeline.curve import curve_tools, prune_network
from bbo.pipeline.epoch_log import tell
from bbo.pipeline.loop import train_network
from bbo.pipeline.run import Run, Trained, set_up, variables_of
from bbo.pruning.schedules import removed_after
from bbo.settings.config import ExperimentConfig, override
from bbo.training import preemption
from bbo.training.devices import replicate
from bbo.training.preemption import Poll, ShouldStop
from bbo.training.step import TrainState
from bbo.types import Masks, PyTree


class Stage(NamedTuple):
    """A network that was trained, then pruned and measured."""

    folder: pathlib.Path
    """With its metrics and checkpoints."""
    network: Trained
    rows: list[dict[str, Any]]
    """Of the pruning curve, see ``curve.prune_network``."""


def train_and_prune(run: Run, workdir: pathlib.Path, should_stop: ShouldStop) -> list[Stage]:
    """Trains a network and prunes it once at every sparsity, or prunes and trains it in turn.

    Args:
      run: from ``run.set_up``.
      workdir: of the run; what is trained after pruning ``i`` lies in its folder ``iteration_i``.
      should_stop: asked throughout.

    Returns:
      one stage, or of each iteration one, and before them that of the whole network.

    Raises:
      Preempted: by ``should_stop``; the same call goes on from there.
      RunError: the loss or the network is no longer of finite numbers.
    """
    config = run.config.iterations
    network, count = train_network(run, workdir, should_stop)
    poll = preemption.poller(should_stop, count)
    if config.prune_iterations == 1:
        return [Stage(workdir, network, prune_network(run, network, workdir, poll))]
    again = set_up(_after_pruning(run.config), like=run)
    shares = removed_after(config.prune_to, config.prune_iterations, config.prune_schedule)
    stages = [Stage(workdir, network, _point(run, network, workdir, poll, 0.0))]
    for number, share in enumerate(shares, 1):
        tell(f"iteration {number} of {len(shares)}: {100 * share:.1f} % removed")
        folder = workdir / f"iteration_{number}"
        masks = _masks(run, network.variables, poll, share)
        first = variables_of(run.state) if config.rewind else network.variables
        begun = _masked(_stirred(again, number), first, masks)
        network, count = train_network(begun, folder, should_stop, start=poll())
        poll = preemption.poller(should_stop, count)
        stages.append(Stage(folder, network, _point(again, network, folder, poll, share)))
    return stages


def _after_pruning(config: ExperimentConfig) -> ExperimentConfig:
    """How what is left is trained."""
    iterations = config.iterations
    rate = config.optimizer.learning_rate if iterations.rewind else iterations.retrain_rate
    return override(config, epochs=iterations.retrain_epochs, learning_rate=rate)


def _point(
    run: Run, network: Trained, folder: pathlib.Path, poll: Poll, sparsity: float
) -> list[dict[str, Any]]:
    """The rows of one sparsity, to which the network has been pruned already."""
    here = run._replace(config=override(run.config, sparsities=(sparsity,)))
    return prune_network(here, network, folder, poll)


def _masks(run: Run, variables: PyTree, poll: Poll, sparsity: float) -> Masks:
    """What is left at a sparsity: like the parameters, a bool for each number."""
    pruner = curve_tools(run, variables, poll).prepare(*run.config.pruning.granularity)
    params, masks = variables["params"], pruner.masks(sparsity)
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
        (params, variables["batch_stats"]) if run.config.optimizer.average_decay else (),
    )
    return run._replace(state=replicate(state, run.mesh))


def _stirred(run: Run, number: int) -> Run:
    """The run with other randomness: of batches, augmentation and noise."""
    rngs = {name: jax.random.fold_in(rng, number) for name, rng in run.rngs.items()}
    rng = replicate(rngs["train"], run.mesh)
    train_images = run.images["train"]._replace(rng=rng)
    return run._replace(rngs=rngs, images=run.images | {"train": train_images})
