"""The training of a run: the visible loop and its checkpoints."""

import contextlib
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from bbo.noise.schedule import draw_removed
from bbo.pipeline.divergence import FINITE, check_finite, numbers_of
from bbo.pipeline.epoch_log import WriteEpoch, recorder, tell
from bbo.pipeline.progress import Metrics, Progress, beginning, pack, trained_copy, unpack
from bbo.pipeline.run import Run, Trained, accuracy_on, training_batches, variables_of
from bbo.settings.config import ExperimentConfig
from bbo.training import checkpoint, preemption
from bbo.training.devices import AHEAD
from bbo.training.evaluation import CLASS
from bbo.training.finite import all_finite
from bbo.training.full_disk import one_line_when_full
from bbo.training.preemption import Poll, ShouldStop
from bbo.training.step import METRICS, TrainState
from bbo.types import Array, Preempted, PyTree


class Together(NamedTuple):
    """How far the training of some runs has come that go in step."""

    state: TrainState
    """Of one run its own; of several, each array has a first axis over them."""
    members: list[Progress]
    """As they were at the beginning of the epoch."""
    collected: list[Metrics]
    """Of the calls since then; of several runs, the last axis of the arrays is over them."""
    seconds: float


class Steps(NamedTuple):
    """How runs take a training step: one by itself, or several as one program (``vmapped``)."""

    finite: Callable[[PyTree], Array]
    """Whether all of a network's numbers are; of several runs for each of them."""
    batches: Callable[[int], Iterator[PyTree]]
    """Those of an epoch."""
    step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
    join: Callable[[Sequence[Progress]], Together]
    part: Callable[[Together], list[Progress]]
    """The inverse of ``join``, with all that has been done since."""


def train_network(
    run: Run,
    workdir: pathlib.Path,
    should_stop: ShouldStop = preemption.never,
    *,
    start: int = 0,
) -> tuple[Trained, int]:
    """Trains from the newest checkpoint, or from the beginning.

    Args:
      run: from ``run.set_up``.
      workdir: for metrics and checkpoints.
      should_stop: asked after each call, each batch of an evaluation and each epoch.
      start: the count of work that was done before this training.

    Returns:
      the selected network, and the count of work done until the end of training.

    Raises:
      Preempted: by ``should_stop``; all has been saved.
      RunError: the loss, the network or a checkpoint is no longer of finite numbers.
    """

    def part(now: Together) -> list[Progress]:
        own = {"state": now.state, "collected": now.collected, "seconds": now.seconds}
        return [now.members[0]._replace(**own)]

    config, programs = run.config, (run.programs.train, *run.programs.removing)
    noise_rng = jax.random.split(run.rngs["train"])[1]
    steps = config.train.epochs * run.steps_per_epoch
    removed = draw_removed(config.noise, noise_rng, steps).reshape(config.train.epochs, -1)
    alone = Steps(
        finite=all_finite,
        batches=lambda epoch: zip(training_batches(run, epoch), removed[epoch - 1], strict=False),
        step=lambda state, call: programs[call[1]](state, run.images["train"], call[0]),
        join=lambda found: Together(found[0].state, [*found], found[0].collected, found[0].seconds),
        part=part,
    )
    (network,), count = train([run], [workdir], alone, should_stop, start=start)
    return network, count


def train(
    runs: Sequence[Run],
    folders: Sequence[pathlib.Path],
    steps: Steps,
    should_stop: ShouldStop,
    *,
    start: int = 0,
) -> tuple[list[Trained], int]:
    """Trains runs in step, each with metrics and checkpoints in a folder of its own.

    Args, errors: as ``train_network``. RunError also if the disk takes no more.

    Returns:
      the selected networks, and the count of work done; none, and nothing done, if some runs have
      been trained alone further than others.
    """
    config = runs[0].config.train
    with one_line_when_full(folders[0]), contextlib.ExitStack() as stack:
        managers = [stack.enter_context(checkpoint.open_checkpoints(path)) for path in folders]
        found, count = _restored(runs, managers)
        if not found:
            tell("some runs have been trained further than others: each goes on alone")
            return [], start
        count = count or start
        poll = preemption.poller(should_stop, count)
        writers = [
            stack.enter_context(recorder(run, path, progress, shown=run is runs[0]))
            for run, path, progress in zip(runs, folders, found, strict=True)
        ]
        records, show = [record for record, _ in writers], writers[0][1]

        def check(now: Together) -> list[Progress]:
            parts = steps.part(now)
            for run, manager, progress in zip(runs, managers, parts, strict=True):
                check_finite(run, progress, checkpoint.newest(manager))
            return parts

        def save(count: int, now: Together) -> None:
            parts = check(now)
            _wait_for(managers)  # so that no run is ever two checkpoints ahead of another
            for run, manager, progress in zip(runs, managers, parts, strict=True):
                checkpoint.save(manager, count, pack(run, progress))

        now = begun = steps.join(found)
        try:
            for now in advance(runs, begun, steps, records, poll, check):
                first = now.members[0]._replace(collected=now.collected)
                show(first)
                count = poll()
                if is_due(config.checkpoint_every, config.epochs, first):
                    save(count, now)
        except Preempted as stop:
            save(stop.args[0], now)
            raise
        finally:
            _wait_for(managers)
    return [progress.best for progress in now.members], count


def _wait_for(managers: Sequence[checkpoint.CheckpointManager]) -> None:
    for manager in managers:
        manager.wait_until_finished()


def _restored(
    runs: Sequence[Run], managers: Sequence[checkpoint.CheckpointManager]
) -> tuple[list[Progress], int]:
    """How far runs had come, and the count of work done; none if some have come further.

    Runs of which some were ended before their checkpoint was written all go back to the last one
    that all of them have.

    Raises:
      RunError: no checkpoint can be read, or the network of one is not of finite numbers.
    """
    found, count = _newest(runs, managers)
    while len({(progress.epochs, len(progress.collected)) for progress in found}) > 1:
        if not checkpoint.go_back(managers):
            return [], 0
        found, count = _newest(runs, managers)
    if count:
        done = len(found[0].collected) * runs[0].steps_per_call
        taken = f"{done} of {runs[0].steps_per_epoch} steps"
        tell(f"going on after {found[0].epochs} epochs and {taken}")
    for run, progress in zip(runs, found, strict=True):
        check_finite(run, progress, None)
    return found, count


def _newest(
    runs: Sequence[Run], managers: Sequence[checkpoint.CheckpointManager]
) -> tuple[list[Progress], int]:
    restored = [
        checkpoint.restore_newest(manager, pack(run, beginning(run)))
        for manager, run in zip(managers, runs, strict=True)
    ]
    found = [unpack(run, tree) for run, (_, tree) in zip(runs, restored, strict=True)]
    return found, max(count for count, _ in restored)


def is_due(every: int, epochs: int, progress: Progress) -> bool:
    """Whether an epoch has ended after which a checkpoint is to be written."""
    done = progress.epochs
    return not progress.collected and (done % every == 0 or done in (1, epochs))


def advance(
    runs: Sequence[Run],
    now: Together,
    steps: Steps,
    records: Sequence[WriteEpoch],
    poll: Poll,
    check: Callable[[Together], list[Progress]],
) -> Iterator[Together]:
    """The training loop: progress after every call, and after every epoch.

    Calls are dispatched a few ahead of the device. ``check`` parts what has been done, and raises
    RunError if it is not finite.
    """
    for epoch in range(now.members[0].epochs + 1, runs[0].config.train.epochs + 1):
        started = time.monotonic() - now.seconds
        collected = now.collected
        for batch in itertools.islice(steps.batches(epoch), len(collected), None):
            state, means = steps.step(now.state, batch)
            collected.append(means | {FINITE: steps.finite(numbers_of(state))})
            jax.block_until_ready(collected[-AHEAD:][0])
            now = now._replace(state=state, seconds=time.monotonic() - started)
            yield now
        finished = [
            _finish_epoch(run, progress, record, poll, started)
            for run, progress, record in zip(runs, check(now), records, strict=True)
        ]
        now = Together(now.state, finished, [], 0.0)
        yield now


def _finish_epoch(
    run: Run, progress: Progress, record: WriteEpoch, poll: Poll, started: float
) -> Progress:
    """After the last step of an epoch: measures, records and selects.

    Args:
      run: the run.
      progress: with the metrics of the whole epoch.
      record: where its numbers go.
      poll: before each batch of the evaluation.
      started: ``time.monotonic()`` at the beginning of the epoch.

    Raises:
      Preempted: from ``poll``.
    """
    epoch = progress.epochs + 1
    numbers = _means(progress.collected)
    watched = {"best_test": "test"}.get(run.config.train.select, "validation")
    measured = accuracy_on(run, watched, variables_of(progress.state), poll)
    # By class only in the end: a hundred lines in every epoch would hide the others.
    numbers |= {name: value for name, value in measured.items() if CLASS not in name}
    record(epoch, numbers | {"seconds": round(time.monotonic() - started, 3)})
    best = _select(run.config, progress, numbers.get(f"{watched}_top1"))
    return Progress(progress.state, best, epochs=epoch, collected=[], seconds=0.0)


def _means(collected: list[Metrics]) -> dict[str, float]:
    """Of the metrics of an epoch, by ``train_<name>``."""
    read = jax.device_get(collected)
    return {
        f"train_{name}": float(np.mean([call[name] for call in read], dtype=np.float64))
        for name in METRICS
    }


def _select(config: ExperimentConfig, progress: Progress, accuracy: float | None) -> Trained:
    """The better of the best network so far and this one; the later of two equals."""
    epoch = progress.epochs + 1
    if config.train.select == "last" or accuracy is None:
        return trained_copy(progress.state, epoch=epoch, accuracy=-1.0)
    if np.float32(accuracy) < np.float32(progress.best.accuracy):
        return progress.best
    return trained_copy(progress.state, epoch=epoch, accuracy=accuracy)
