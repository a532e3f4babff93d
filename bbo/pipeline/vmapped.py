"""Several runs that differ in seed or strength of noise, trained as one vmapped computation."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo.pipeline.compiled import Images, create_members_step
from bbo.pipeline.epoch_log import WriteEpoch, recorder, tell
from bbo.pipeline.loop import finish_epoch, is_due
from bbo.pipeline.progress import Metrics, Progress, beginning, pack, unpack
from bbo.pipeline.run import Run, spread_over_devices, training_choices
from bbo.settings.config import ExperimentConfig
from bbo.training import checkpoint, preemption
from bbo.training.devices import AHEAD
from bbo.training.preemption import Poll, ShouldStop
from bbo.training.step import TrainState
from bbo.types import Array, Preempted, PyTree, UsageError


class Members(NamedTuple):
    """How far training has come, of all members."""

    state: TrainState
    """Of all: each array has a first axis over the members."""
    members: list[Progress]
    """As they were at the beginning of the epoch."""
    collected: list[Metrics]
    """Of the calls since then: arrays whose last axis is over the members."""
    seconds: float


def check_alike(configs: Sequence[ExperimentConfig]) -> None:
    """Checks that runs can be trained as one program.

    Raises:
      UsageError: they differ in more than seed and rate, use pmap or rbg, or this is one process
        of many.
    """
    if jax.process_count() > 1:
        raise UsageError("several seeds in one program work within one process")
    if any(config.train.parallel == "pmap" for config in configs):
        raise UsageError("several seeds in one program need parallel=jit")
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
    of which some were interrupted elsewhere than others are left as they are.

    The ``seconds`` of an epoch, and hence ``seconds_to_train``, are in the record of each member
    those of all together: what the computation took, and not to be added up over members.

    Args:
      members: from ``run.set_up``, with shared images; ``check_alike`` has accepted them.
      folders: of each.
      should_stop: asked after each call, each batch of an evaluation and each epoch.

    Raises:
      Preempted: by ``should_stop``; all has been saved.
      RunError: the loss of a member is no longer a number.
    """
    with contextlib.ExitStack() as stack:
        managers = [stack.enter_context(checkpoint.open_checkpoints(path)) for path in folders]
        restored = [
            checkpoint.restore_newest(manager, pack(run, beginning(run)))
            for manager, run in zip(managers, members, strict=True)
        ]
        found = [unpack(run, tree) for run, (_, tree) in zip(members, restored, strict=True)]
        if len({(progress.epochs, len(progress.collected)) for progress in found}) > 1:
            tell("the runs were interrupted at different steps: each goes on alone")
            return
        recorders = [
            stack.enter_context(recorder(run, path, progress, shown=run is members[0]))
            for run, path, progress in zip(members, folders, found, strict=True)
        ]
        show = recorders[0][1]
        poll = preemption.poller(should_stop, max(count for count, _ in restored))

        def save(count: int, group: Members) -> None:
            for run, manager, progress in zip(members, managers, _separate(group), strict=True):
                checkpoint.save(manager, count, pack(run, progress))

        config = members[0].config.train
        group = start = _together(found)
        try:
            for group in _advance(members, start, [record for record, _ in recorders], poll):
                first = group.members[0]._replace(collected=group.collected)
                show(first)
                count = poll()
                if is_due(config.checkpoint_every, config.epochs, first):
                    save(count, group)
        except Preempted as stop:
            save(stop.args[0], group)
            raise
        finally:
            for manager in managers:
                manager.wait_until_finished()


def create_step(members: Sequence[Run]) -> tuple[Callable[..., Any], Images, Array]:
    """The training step of all, compiled at its first call, its images and the rates.

    Returns:
      ``step``, ``images`` and ``rates`` of ``step(state, images, batch, rates)``, see
      ``compiled.create_members_step``.
    """
    first = members[0]
    step = create_members_step(first.config, first.optimizer, first.mesh)
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


def _advance(
    members: Sequence[Run], group: Members, records: Sequence[WriteEpoch], poll: Poll
) -> Iterator[Members]:
    """The training loop of ``fitting``, of all members in step."""
    step, images, rates = create_step(members)
    for epoch in range(group.members[0].epochs + 1, members[0].config.train.epochs + 1):
        started = time.monotonic() - group.seconds
        batches = training_batches(members, epoch)
        for batch in itertools.islice(batches, len(group.collected), None):
            state, means = step(group.state, images, batch, rates)
            group.collected.append(means)
            jax.block_until_ready(group.collected[-AHEAD:][0])
            group = group._replace(state=state, seconds=time.monotonic() - started)
            yield group
        finished = [
            finish_epoch(run, progress, record, poll, started)
            for run, progress, record in zip(members, _separate(group), records, strict=True)
        ]
        group = Members(group.state, finished, [], 0.0)
        yield group


def _together(found: Sequence[Progress]) -> Members:
    calls = zip(*(progress.collected for progress in found), strict=True)
    return Members(
        stack_states([progress.state for progress in found]),
        [progress._replace(collected=[]) for progress in found],
        [jax.tree.map(lambda *values: np.stack(values, axis=-1), *call) for call in calls],
        found[0].seconds,
    )


def _separate(group: Members) -> list[Progress]:
    collected = jax.device_get(group.collected)
    return [
        progress._replace(
            state=jax.tree.map(lambda leaf: leaf[index], group.state),  # noqa: B023
            collected=[{name: call[name][..., index] for name in call} for call in collected],
            seconds=group.seconds,
        )
        for index, progress in enumerate(group.members)
    ]
