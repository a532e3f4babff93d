"""How far training has come, as a tuple and as a checkpoint."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo.pipeline.run import Run, Trained, variables_of
from bbo.training.devices import replicate
from bbo.training.step import METRICS, TrainState
from bbo.types import PyTree

Metrics = dict[str, Any]
"""Of a call: ``loss`` and ``accuracy``, of its step or steps [k]; on the device or read from it."""


class Progress(NamedTuple):
    """How far training has come."""

    state: TrainState
    best: Trained
    epochs: int
    """Finished and recorded."""
    collected: list[Metrics]
    """Metrics of the calls done of the epoch under way."""
    seconds: float
    """Spent on that epoch."""


def beginning(run: Run) -> Progress:
    """Before the first step."""
    return Progress(
        # A copy: the first step takes the memory of its argument.
        state=jax.tree.map(jnp.copy, run.state),
        best=trained_copy(run.state, epoch=0, accuracy=-1.0),
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
        for name in METRICS
    }
    rest = (progress.best, np.int32(progress.epochs), collected, np.float32(progress.seconds))
    return progress.state, *replicate(rest, run.mesh)


def unpack(run: Run, tree: PyTree) -> Progress:
    """The inverse of ``pack``."""
    state, best, *rest = tree
    epochs, collected, seconds = jax.device_get(rest)
    num_done = int(state.step) - int(epochs) * run.steps_per_epoch
    if run.config.train.steps_per_call > 1:
        collected = {name: x.reshape(-1, run.steps_per_call) for name, x in collected.items()}
    calls = range(num_done // run.steps_per_call)
    done = [{name: collected[name][i] for name in METRICS} for i in calls]
    return Progress(state, best, int(epochs), done, float(seconds))


def steps_done(run: Run, progress: Progress) -> int:
    """Since the beginning of the run."""
    done = len(progress.collected) * run.steps_per_call
    return progress.epochs * run.steps_per_epoch + done


def trained_copy(state: TrainState, *, epoch: int, accuracy: float) -> Trained:
    """A copy, because the next step is allowed to overwrite the state."""
    kept = jax.tree.map(jnp.copy, variables_of(state))
    return Trained(kept, jnp.asarray(epoch, jnp.int32), jnp.asarray(accuracy, jnp.float32))
