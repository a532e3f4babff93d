"""The training of a run: the visible loop and its checkpoints."""

import itertools
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np

from bbo.pipeline.epoch_log import WriteEpoch, recorder, tell
from bbo.pipeline.progress import Metrics, Progress, beginning, pack, trained_copy, unpack
from bbo.pipeline.run import Run, Trained, accuracy_on, training_batches, variables_of
from bbo.settings.config import ExperimentConfig
from bbo.training import checkpoint, preemption
from bbo.training.devices import AHEAD
from bbo.training.evaluation import CLASS
from bbo.training.preemption import Poll, ShouldStop
from bbo.training.step import METRICS
from bbo.types import Preempted, RunError


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
      RunError: the loss is no longer a number.
    """
    config = run.config.train
    with checkpoint.open_checkpoints(workdir) as manager:
        count, tree = checkpoint.restore_newest(manager, pack(run, beginning(run)))
        progress = restored = unpack(run, tree)
        if count:
            done = len(progress.collected) * run.steps_per_call
            steps = f"{done} of {run.steps_per_epoch} steps"
            tell(f"going on after {progress.epochs} epochs and {steps}")
        count = count or start
        poll = preemption.poller(should_stop, count)
        with recorder(run, workdir, restored) as (record, show):
            try:
                for progress in _advance(run, restored, record, poll):
                    show(progress)
                    count = poll()
                    if is_due(config.checkpoint_every, config.epochs, progress):
                        checkpoint.save(manager, count, pack(run, progress))
            except Preempted as stop:
                checkpoint.save(manager, stop.args[0], pack(run, progress))
                manager.wait_until_finished()
                raise
        manager.wait_until_finished()
    return progress.best, count


def is_due(every: int, epochs: int, progress: Progress) -> bool:
    """Whether an epoch has ended after which a checkpoint is to be written."""
    done = progress.epochs
    return not progress.collected and (done % every == 0 or done in (1, epochs))


def _advance(run: Run, progress: Progress, record: WriteEpoch, poll: Poll) -> Iterator[Progress]:
    """The training loop: progress after every call, and after every epoch.

    Calls are dispatched a few ahead of the device.
    """
    for epoch in range(progress.epochs + 1, run.config.train.epochs + 1):
        started = time.monotonic() - progress.seconds
        collected = progress.collected
        for batch in itertools.islice(training_batches(run, epoch), len(collected), None):
            state, means = run.programs.train(progress.state, run.images["train"], batch)
            collected.append(means)
            jax.block_until_ready(collected[-AHEAD:][0])
            progress = progress._replace(state=state, seconds=time.monotonic() - started)
            yield progress
        progress = finish_epoch(run, progress, record, poll, started)
        yield progress


def finish_epoch(
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
      RunError: the loss is no longer a number.
    """
    epoch = progress.epochs + 1
    numbers = _means(epoch, progress.collected)
    watched = {"best_test": "test"}.get(run.config.train.select, "validation")
    measured = accuracy_on(run, watched, variables_of(progress.state), poll)
    # By class only in the end: a hundred lines in every epoch would hide the others.
    numbers |= {name: value for name, value in measured.items() if CLASS not in name}
    record(epoch, numbers | {"seconds": round(time.monotonic() - started, 3)})
    best = _select(run.config, progress, numbers.get(f"{watched}_top1"))
    return Progress(progress.state, best, epochs=epoch, collected=[], seconds=0.0)


def _means(epoch: int, collected: list[Metrics]) -> dict[str, float]:
    """Of the metrics of an epoch, by ``train_<name>``."""
    read = jax.device_get(collected)
    means = {
        f"train_{name}": float(np.mean([call[name] for call in read], dtype=np.float64))
        for name in METRICS
    }
    if not np.isfinite(means["train_loss"]):
        raise RunError(
            f"training diverged: the loss of epoch {epoch} is {means['train_loss']}; "
            "lower learning_rate or rate, or raise q"
        )
    return means


def _select(config: ExperimentConfig, progress: Progress, accuracy: float | None) -> Trained:
    """The better of the best network so far and this one; the later of two equals."""
    epoch = progress.epochs + 1
    if config.train.select == "last" or accuracy is None:
        return trained_copy(progress.state, epoch=epoch, accuracy=-1.0)
    if np.float32(accuracy) < np.float32(progress.best.accuracy):
        return progress.best
    return trained_copy(progress.state, epoch=epoch, accuracy=accuracy)
