"""Several runs that differ in seed or strength of noise, trained as one vmapped computation."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import checkpoint, fitting, preemption, programs, sharding
from bbo.config import ExperimentConfig
from bbo.fitting import Metrics, Progress, Record
from bbo.preemption import Poll, ShouldStop
from bbo.runs import Run, training_choices
from bbo.train import TrainState
from bbo.types import Preempted, UsageError


class Group(NamedTuple):
    """How far training has come, of all members."""

    state: TrainState
    """Of all: each array has a first axis over the members."""
    members: list[Progress]
    """As they were at the beginning of the epoch."""
    collected: list[Metrics]
    """Of the steps since then; arrays over the members."""
    seconds: float


def check_alike(configs: Sequence[ExperimentConfig]) -> None:
    """Checks that runs can be trained as one program.

    Raises:
      UsageError: they differ in more than seed and rate, use pmap, or this is one process of many.
    """
    if jax.process_count() > 1:
        raise UsageError("several seeds in one program work within one process")
    if any(config.train.parallel == "pmap" for config in configs):
        raise UsageError("several seeds in one program need parallel=jit")

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
      members: from ``runs.set_up``, with shared images; ``check_alike`` has accepted them.
      folders: of each.
      should_stop: asked after each step, each batch of an evaluation and each epoch.

    Raises:
      Preempted: by ``should_stop``; all has been saved.
      RunError: the loss of a member is no longer a number.
    """
    with contextlib.ExitStack() as stack:
        managers = [stack.enter_context(checkpoint.open_checkpoints(path)) for path in folders]
        restored = [
            checkpoint.restore_newest(manager, fitting.pack(run, fitting.beginning(run)))
            for manager, run in zip(managers, members, strict=True)
        ]
        found = [
            fitting.unpack(run, tree) for run, (_, tree) in zip(members, restored, strict=True)
        ]
        if len({(progress.epochs, len(progress.collected)) for progress in found}) > 1:
            fitting.tell("the runs were interrupted at different steps: each goes on alone")
            return
        recorders = [
            stack.enter_context(fitting.recorder(run, path, progress, shown=run is members[0]))
            for run, path, progress in zip(members, folders, found, strict=True)
        ]
        show = recorders[0][1]
        poll = preemption.poller(should_stop, max(count for count, _ in restored))

        def save(count: int, group: Group) -> None:
            for run, manager, progress in zip(members, managers, _separate(group), strict=True):
                checkpoint.save(manager, count, fitting.pack(run, progress))

        config = members[0].config.train
        group = start = _together(found)
        try:
            for group in _advance(members, start, [record for record, _ in recorders], poll):
                first = group.members[0]._replace(collected=group.collected)
                show(first)
                count = poll()
                if fitting.is_due(config.checkpoint_every, config.epochs, first):
                    save(count, group)
        except Preempted as stop:
            save(stop.args[0], group)
            raise
        finally:
            for manager in managers:
                manager.wait_until_finished()


def _advance(
    members: Sequence[Run], group: Group, records: Sequence[Record], poll: Poll
) -> Iterator[Group]:
    """The training loop of ``fitting``, of all members in step."""
    first = members[0]
    step = programs.create_members_step(first.config, first.optimizer, first.mesh)
    images = first.images["train"]._replace(rng=jnp.stack([run.rngs["train"] for run in members]))
    rates = jnp.asarray([run.config.noise.rate for run in members], jnp.float32)
    for epoch in range(group.members[0].epochs + 1, first.config.train.epochs + 1):
        started = time.monotonic() - group.seconds
        choices = zip(*(training_choices(run, epoch) for run in members), strict=True)
        for choice in itertools.islice(choices, len(group.collected), None):
            batch = jax.tree.map(lambda *rows: np.stack(rows), *choice)
            batch = sharding.shard_batch(batch, first.mesh, axis=1)
            state, means = step(group.state, images, batch, rates)
            group.collected.append(means)
            jax.block_until_ready(group.collected[-sharding.AHEAD :][0])
            group = group._replace(state=state, seconds=time.monotonic() - started)
            yield group
        finished = [
            fitting.finish_epoch(run, progress, record, poll, started)
            for run, progress, record in zip(members, _separate(group), records, strict=True)
        ]
        group = Group(group.state, finished, [], 0.0)
        yield group


def _together(found: Sequence[Progress]) -> Group:
    steps = zip(*(progress.collected for progress in found), strict=True)
    return Group(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(progress.state for progress in found)),
        [progress._replace(collected=[]) for progress in found],
        [jax.tree.map(lambda *values: np.stack(values), *step) for step in steps],
        found[0].seconds,
    )


def _separate(group: Group) -> list[Progress]:
    collected = jax.device_get(group.collected)
    return [
        progress._replace(
            state=jax.tree.map(lambda leaf: leaf[index], group.state),  # noqa: B023
            collected=[{name: step[name][index] for name in step} for step in collected],
            seconds=group.seconds,
        )
        for index, progress in enumerate(group.members)
    ]
