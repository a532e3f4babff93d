"""The training of a run: the visible loop, its records and its checkpoints."""

import contextlib
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import checkpoint, evaluate, metrics, preemption, sharding, train
from bbo import workdir as workdirs
from bbo.config import ExperimentConfig
from bbo.preemption import Poll, ShouldStop
from bbo.progress import progress_bar
from bbo.runs import Network, Run, accuracy_on, training_batches, variables_of
from bbo.types import Preempted, PyTree, RunError, UsageError

Metrics = dict[str, Any]
"""Of a call: ``loss`` and ``accuracy``, of its step or steps [k]; on the device or read from it."""

Record = Callable[[int, dict[str, float]], None]
"""Takes the numbers of an epoch."""


class Progress(NamedTuple):
    """How far training has come."""

    state: train.TrainState
    best: Network
    epochs: int
    """Finished and recorded."""
    collected: list[Metrics]
    """Metrics of the calls done of the epoch under way."""
    seconds: float
    """Spent on that epoch."""


def train_network(
    run: Run,
    workdir: pathlib.Path,
    should_stop: ShouldStop = preemption.never,
    *,
    start: int = 0,
) -> tuple[Network, int]:
    """Trains from the newest checkpoint, or from the beginning.

    Args:
      run: from ``runs.set_up``.
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


def beginning(run: Run) -> Progress:
    """Before the first step."""
    return Progress(
        # A copy: the first step takes the memory of its argument.
        state=jax.tree.map(jnp.copy, run.state),
        best=_network(run.state, epoch=0, accuracy=-1.0),
        epochs=0,
        collected=[],
        seconds=0.0,
    )


def pack(run: Run, progress: Progress) -> PyTree:
    """Progress as a tree of arrays of fixed shapes, on all devices: what a checkpoint holds."""
    done = jax.device_get(progress.collected)
    left = run.steps_per_epoch - len(done) * run.steps_per_call
    collected = {
        name: np.pad(np.asarray([call[name] for call in done], np.float32).ravel(), (0, left))
        for name in train.METRICS
    }
    rest = (progress.best, np.int32(progress.epochs), collected, np.float32(progress.seconds))
    return progress.state, *sharding.replicate(rest, run.mesh)


def unpack(run: Run, tree: PyTree) -> Progress:
    """The inverse of ``pack``."""
    state, best, *rest = tree
    epochs, collected, seconds = jax.device_get(rest)
    num_done = int(state.step) - int(epochs) * run.steps_per_epoch
    if run.config.train.steps_per_call > 1:
        collected = {name: x.reshape(-1, run.steps_per_call) for name, x in collected.items()}
    calls = range(num_done // run.steps_per_call)
    done = [{name: collected[name][i] for name in train.METRICS} for i in calls]
    return Progress(state, best, int(epochs), done, float(seconds))


def read_network(workdir: pathlib.Path) -> Network:
    """The network that a finished run selected and pruned, from its folder alone.

    ``study.read_run`` reads the settings and the curve. No images are needed, and nothing is
    compiled.

    Args:
      workdir: of the run, which may have ended on other devices.

    Returns:
      its arrays in numpy: from there they go to any device.

    Raises:
      UsageError: no run, or one that is not finished or has no checkpoint.
      RunError: its checkpoint cannot be read.
    """
    if not workdirs.is_finished(workdir):
        raise UsageError(
            f"{workdir} holds no finished run (no summary.json); the command that began a run "
            "there goes on with it"
        )
    _, best, *_ = checkpoint.read_newest(workdir)
    return Network(**best)


def is_due(every: int, epochs: int, progress: Progress) -> bool:
    """Whether an epoch has ended after which a checkpoint is to be written."""
    done = progress.epochs
    return not progress.collected and (done % every == 0 or done in (1, epochs))


@contextlib.contextmanager
def recorder(
    run: Run, workdir: pathlib.Path, progress: Progress, *, shown: bool = True
) -> Iterator[tuple[Record, Callable[[Progress], None]]]:
    """Gives ``record(epoch, numbers)``, to the metrics, and ``show(progress)``, to a bar."""
    total, steps = run.config.train.epochs, run.steps_per_epoch
    if not sharding.is_first_process():
        yield (lambda epoch, numbers: None), (lambda progress: None)
        return
    with (
        metrics.metrics_writer(workdir, resumed_epoch=progress.epochs) as write,
        progress_bar(
            total=total * steps,
            initial=steps_done(run, progress),
            unit="step",
            disable=not shown,
        ) as bar,
    ):

        def record(epoch: int, numbers: dict[str, float]) -> None:
            write(epoch, numbers)
            accuracies = {k: f"{100 * v:.1f} %" for k, v in numbers.items() if k.endswith("top1")}
            loss = f"{numbers['train_loss']:.3f}"
            bar.set_postfix({"loss": loss, **accuracies}, refresh=False)

        def show(progress: Progress) -> None:
            bar.set_description(f"epoch {min(progress.epochs + 1, total)}/{total}", refresh=False)
            bar.update(steps_done(run, progress) - bar.n)

        yield record, show


def steps_done(run: Run, progress: Progress) -> int:
    """Since the beginning of the run."""
    done = len(progress.collected) * run.steps_per_call
    return progress.epochs * run.steps_per_epoch + done


def tell(message: str) -> None:
    """Says something about the run, once for all its processes."""
    if sharding.is_first_process():
        print(message, file=sys.stderr)


def _advance(run: Run, progress: Progress, record: Record, poll: Poll) -> Iterator[Progress]:
    """The training loop: progress after every call, and after every epoch.

    Calls are dispatched a few ahead of the device.
    """
    for epoch in range(progress.epochs + 1, run.config.train.epochs + 1):
        started = time.monotonic() - progress.seconds
        collected = progress.collected
        for batch in itertools.islice(training_batches(run, epoch), len(collected), None):
            state, means = run.programs.train(progress.state, run.images["train"], batch)
            collected.append(means)
            jax.block_until_ready(collected[-sharding.AHEAD :][0])
            progress = progress._replace(state=state, seconds=time.monotonic() - started)
            yield progress
        progress = finish_epoch(run, progress, record, poll, started)
        yield progress


def finish_epoch(
    run: Run, progress: Progress, record: Record, poll: Poll, started: float
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
    numbers |= {name: value for name, value in measured.items() if evaluate.CLASS not in name}
    record(epoch, numbers | {"seconds": round(time.monotonic() - started, 3)})
    best = _select(run.config, progress, numbers.get(f"{watched}_top1"))
    return Progress(progress.state, best, epochs=epoch, collected=[], seconds=0.0)


def _means(epoch: int, collected: list[Metrics]) -> dict[str, float]:
    """Of the metrics of an epoch, by ``train_<name>``."""
    read = jax.device_get(collected)
    means = {
        f"train_{name}": float(np.mean([call[name] for call in read], dtype=np.float64))
        for name in train.METRICS
    }
    if not np.isfinite(means["train_loss"]):
        raise RunError(
            f"training diverged: the loss of epoch {epoch} is {means['train_loss']}; "
            "lower learning_rate or rate, or raise q"
        )
    return means


def _select(config: ExperimentConfig, progress: Progress, accuracy: float | None) -> Network:
    """The better of the best network so far and this one; the later of two equals."""
    epoch = progress.epochs + 1
    if config.train.select == "last" or accuracy is None:
        return _network(progress.state, epoch=epoch, accuracy=-1.0)
    if np.float32(accuracy) < np.float32(progress.best.accuracy):
        return progress.best
    return _network(progress.state, epoch=epoch, accuracy=accuracy)


def _network(state: train.TrainState, *, epoch: int, accuracy: float) -> Network:
    """A copy, because the next step is allowed to overwrite the state."""
    kept = jax.tree.map(jnp.copy, variables_of(state))
    return Network(kept, jnp.asarray(epoch, jnp.int32), jnp.asarray(accuracy, jnp.float32))
