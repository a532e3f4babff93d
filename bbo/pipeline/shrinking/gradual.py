"""Shrinking in several steps, with training in between: what is removed does not come back."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from bbo.files import read_lines, write_lines
from bbo.models.create import kept_channels
from bbo.pipeline.loop import train_network
from bbo.pipeline.run import set_up
from bbo.pipeline.shrinking.goal import Goal
from bbo.pipeline.shrinking.shrink import Shrunk, clock_of, shrink
from bbo.pruning.schedules import removed_after
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.workdir import claim, held_for
from bbo.training import preemption
from bbo.training.devices import replicate
from bbo.types import PyTree, UsageError

COUNTED = ("macs", "params")
"""Of these, what all steps leave is a product."""


def shrink_gradually(
    config: ExperimentConfig,
    variables: PyTree,
    target: Goal,
    *,
    iterations: int,
    train: Callable[[Shrunk, int], PyTree],
    round_to: int = 1,
    memory: pathlib.Path | None = None,
) -> Shrunk:
    """Shrinks a network several times, trains what is left after each; errors are ``shrink``'s.

    Args:
      config: from ``for_removal``.
      variables: the trained network.
      target: to be reached in the end, of the network as it was.
      iterations: how many times, by ``schedules.removed_after``.
      train: from the shrunk network and the number of the iteration, 0 and on, to its variables.
      round_to: see ``shrink``.
      memory: a file for the sparsities found by measuring; the same call takes them again.

    Returns:
      the last one, trained, with what is left of the whole; the rest is of its own iteration.
    """
    left: dict[str, float] = dict.fromkeys(("sparsity", *COUNTED), 1.0)
    kept, clock, shrunk = None, None, None
    for number, removed in enumerate(removed_after(_to_remove(target), iterations)):
        run = set_up(config, kept=kept)
        if target.measure == "latency":
            clock = clock or clock_of(run, variables, target)
        again = functools.partial(shrink, run, variables, round_to=round_to, clock=clock)
        key = {"iteration": number, "round_to": round_to, **target._asdict()}
        shrunk = _as_before(again, _step(target, removed, left), memory, key)
        now = {"sparsity": 1 - shrunk.sparsity, **shrunk.left}
        left = {name: left[name] * now[name] for name in left}
        variables, kept = train(shrunk, number), kept_channels(shrunk.variables["params"])
    if shrunk is None:
        raise UsageError(f"iterations is {iterations}; it must be 1 or more")
    whole = shrunk.left | {name: left[name] for name in COUNTED}
    return shrunk._replace(variables=variables, sparsity=1 - left["sparsity"], left=whole)


def _to_remove(target: Goal) -> float:
    return target.share if target.measure == "sparsity" else 1 - target.share


def _step(target: Goal, removed: float, left: Mapping[str, float]) -> Goal:
    """What is asked of the network of one iteration, of which ``left`` is left of the whole."""
    if target.measure == "latency":  # its clock compares with the whole, at any iteration
        return target._replace(share=round(1 - removed, 12))
    keep = min(1.0, (1 - removed) / left[target.measure])
    return target._replace(share=1 - keep if target.measure == "sparsity" else keep)


def _as_before(
    again: Callable[[Goal], Shrunk],
    target: Goal,
    memory: pathlib.Path | None,
    key: dict[str, Any],
) -> Shrunk:
    """What it makes of a target; a sparsity that it measured its way to is kept for the next time.

    Another would be found then, and a training that was interrupted could not go on.

    Args:
      again: ``shrink``.
      target: of this iteration.
      memory: of JSON lines; None keeps nothing.
      key: what a line must say to be the one.
    """
    lines = read_lines(memory) if memory else []
    for line in lines:
        if key.items() <= line.items():
            shrunk = again(Goal("sparsity", line["sparsity"]))
            return shrunk._replace(left={**shrunk.left, "latency": line["latency"]})
    shrunk = again(target)
    if memory and target.measure == "latency":
        memory.parent.mkdir(parents=True, exist_ok=True)
        found = {"sparsity": shrunk.sparsity, "latency": shrunk.left["latency"]}
        write_lines(memory, [*lines, key | found])
    return shrunk


def fine_tune(
    variables: PyTree,
    config: ExperimentConfig,
    workdir: pathlib.Path,
    should_stop: preemption.ShouldStop = preemption.never,
    *,
    epochs: int,
    learning_rate: float,
) -> PyTree:
    """Trains a small network further, without noise: what was removed does not come back.

    Args:
      variables: of a network that has lost channels.
      config: of the run.
      workdir: for metrics and checkpoints; the same call goes on from there.
      should_stop: asked throughout, see ``preemption.watch``.
      epochs: of the training.
      learning_rate: at its beginning; it falls to zero by a cosine.

    Returns:
      the variables that ``select`` selects.
    """
    tuning = override(
        config, noise="none", epochs=epochs, learning_rate=learning_rate, schedule="cosine"
    )
    claim(workdir, tuning)
    run = set_up(tuning, kept=kept_channels(variables["params"]))
    state = run.state._replace(params=variables["params"], batch_stats=variables["batch_stats"])
    run = run._replace(state=replicate(state, run.mesh))
    with held_for(workdir, tuning):
        return train_network(run, workdir, should_stop)[0].variables
