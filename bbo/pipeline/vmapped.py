"""Several runs that differ in seed or strength of noise, trained as one vmapped computation."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbo.pipeline.compiled import create_members_step
from bbo.pipeline.configured import Images
from bbo.pipeline.loop import Steps, Together, train
from bbo.pipeline.progress import Progress
from bbo.pipeline.run import Run, spread_over_devices, training_choices
from bbo.settings.config import ExperimentConfig
from bbo.training.finite import all_finite
from bbo.training.preemption import ShouldStop
from bbo.training.step import TrainState
from bbo.types import Array, PyTree, UsageError


def check_alike(configs: Sequence[ExperimentConfig]) -> None:
    """Checks that runs can be trained as one program.

    Raises:
      UsageError: they differ in more than seed and rate, use pmap, rbg, removed_shares or
        norm_scope=device, or this is one process of many.
    """
    if jax.process_count() > 1:
        raise UsageError("several seeds in one program work within one process")
    if any(config.train.parallel == "pmap" for config in configs):
        raise UsageError("several seeds in one program need parallel=jit")
    if any(config.train.norm_scope == "device" for config in configs):
        raise UsageError("several seeds in one program need norm_scope=global")
    if any(config.noise.removes for config in configs):
        raise UsageError(
            "several seeds in one program train networks of one size; they cannot have "
            "removed_shares"
        )
    if any(config.train.generator == "rbg" for config in configs):
        raise UsageError(
            "several seeds in one program need generator=threefry: of rbg each would have other "
            "draws than alone"
        )

    def rest(config: ExperimentConfig) -> ExperimentConfig:
        return dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, seed=0),
            noise=dataclasses.replace(config.noise, rate=0.5),
        )

    if len({rest(config) for config in configs}) > 1:
        raise UsageError("runs that are trained together may differ in seed and rate only")


def train_together(
    members: Sequence[Run], folders: Sequence[pathlib.Path], should_stop: ShouldStop
) -> None:
    """Trains runs to the end, each with metrics and checkpoints in its own folder.

    Up to rounding, each is the run that it would be alone; it can be gone on with alone too. Runs
    of which some have since been trained further alone are left as they are.

    The ``seconds`` of an epoch, and hence ``seconds_to_train``, are in the record of each member
    those of all together: what the computation took, and not to be added up over members.

    Args:
      members: from ``run.set_up``, with shared images; ``check_alike`` has accepted them.
      folders: of each.
      should_stop: asked after each call, each batch of an evaluation and each epoch.

    Raises:
      Preempted: by ``should_stop``; all has been saved.
      RunError: the loss or network of a member is no longer of finite numbers.
    """
    train(members, folders, steps_of(members), should_stop)


def steps_of(members: Sequence[Run]) -> Steps:
    """The training steps of all, as one program."""
    step, images, rates = create_step(members)
    return Steps(
        finite=jax.jit(jax.vmap(all_finite)),
        batches=lambda epoch: training_batches(members, epoch),
        step=lambda state, batch: step(state, images, batch, rates),
        join=_join,
        part=_part,
    )


def create_step(members: Sequence[Run]) -> tuple[Callable[..., Any], Images, Array]:
    """The training step of all, compiled at its first call, its images and the rates.

    Returns:
      ``step``, ``images`` and ``rates`` of ``step(state, images, batch, rates)``, see
      ``compiled.create_members_step``.
    """
    first = members[0]
    steps = first.config.train.epochs * first.steps_per_epoch
    step = create_members_step(first.config, first.optimizer, first.mesh, steps=steps)
    images = first.images["train"]._replace(rng=jnp.stack([run.rngs["train"] for run in members]))
    return step, images, jnp.asarray([run.config.noise.rate for run in members], jnp.float32)


def training_batches(members: Sequence[Run], epoch: int) -> Iterator[PyTree]:
    """As ``run.training_batches``, of all."""
    choices = zip(*(training_choices(run, epoch) for run in members), strict=True)
    together = (jax.tree.map(lambda *rows: np.stack(rows), *choice) for choice in choices)
    return spread_over_devices(members[0], together, axis=1)


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Of all in one: each array has a first axis over them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _join(found: Sequence[Progress]) -> Together:
    calls = zip(*(progress.collected for progress in found), strict=True)
    return Together(
        stack_states([progress.state for progress in found]),
        [progress._replace(collected=[]) for progress in found],
        [jax.tree.map(lambda *values: np.stack(values, axis=-1), *call) for call in calls],
        found[0].seconds,
    )


def _part(group: Together) -> list[Progress]:
    collected = jax.device_get(group.collected)
    return [
        progress._replace(
            state=jax.tree.map(lambda leaf: leaf[index], group.state),  # noqa: B023
            collected=[{name: call[name][..., index] for name in call} for call in collected],
            seconds=group.seconds,
        )
        for index, progress in enumerate(group.members)
    ]
