"""A training that has diverged: found by its losses and the numbers of its network, and told."""

import pathlib
from typing import Any

import jax
import numpy as np

from bbo.pipeline.progress import Progress
from bbo.pipeline.run import Run
from bbo.training.finite import all_finite, not_finite
from bbo.training.step import TrainState
from bbo.types import PyTree, RunError

FINITE = "finite"
"""Beside the metrics of a call, on the device: whether the network after it was one of numbers."""


def numbers_of(state: TrainState) -> PyTree:
    """What of a state has to be finite."""
    return {"params": state.params, "batch_stats": state.batch_stats, "average": state.average}


def check_finite(run: Run, progress: Progress, good: pathlib.Path | None) -> None:
    """Checks the losses of the epoch under way and the network.

    Args:
      run: the run.
      progress: of which nothing has been saved since the calls that are collected.
      good: the last checkpoint, if there is one.

    Raises:
      RunError: something is not finite; names the step, the arrays and the checkpoint.
    """
    read = jax.device_get(progress.collected)
    numbers = numbers_of(progress.state)
    wrong = [number for number, call in enumerate(read, 1) if not _is_finite(call)]
    if not wrong and all_finite(numbers):
        return
    losses = [value for call in read for value in np.ravel(call["loss"])]
    told = [f"the loss is {loss}" for loss in losses if not np.isfinite(loss)][:1]
    told += [text for text in [not_finite(numbers)] if text]
    epoch = progress.epochs + (1 if read else 0)
    place = f"step {wrong[0] * run.steps_per_call} of epoch {epoch}" if wrong else f"epoch {epoch}"
    saved = f"the last checkpoint before is {good}" if good else "there is no checkpoint before"
    raise RunError(
        f"training diverged in {place}: {'; '.join(told)}; {saved}; "
        "lower learning_rate or rate, or raise q"
    )


def _is_finite(call: dict[str, Any]) -> bool:
    # One that was read from a checkpoint has been looked at before that was written.
    return bool(call.get(FINITE, True)) and bool(np.isfinite(call["loss"]).all())
