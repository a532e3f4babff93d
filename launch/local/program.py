"""A sweep on this machine: its unfinished runs, several at a time.

  python -m launch.local SPEC OUT --parallel=2       two at a time
  python -m launch.local SPEC OUT --gpus=0,1,2,3     one on each of four GPUs
  python -m launch.local SPEC OUT --dry_run          prints the commands; writes nothing

SPEC is a file as launch.sweep describes it. Run 3 works in OUT/0003 and writes what it has to say
to OUT/logs/0003.log. The same command again leaves out what is done and goes on with the rest. A
run that fails does not keep the others from going on.

Ctrl-C stops the runs, which save first; a second one kills them. Exit status: 0 all runs are
done, 1 some are not, 2 a mistake in the command, 130 stopped by Ctrl-C, 75 by SIGTERM or SIGHUP.
"""

import collections
import pathlib
import signal
import time
from collections.abc import Mapping

from absl import flags

from bbo.settings.workdir import is_done
from bbo.types import UsageError
from experiments.command_line.program import INTERRUPTED, PREEMPTED
from launch import sweep
from launch.console import draw, duration, say
from launch.local.children import Child, command_line, recorded_signals, start, stop
from launch.logs import is_running, last_lines, log_path, make_folder
from launch.slurm import squeue
from launch.sweep import Run

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " local"}
flags.DEFINE_integer(
    "parallel",
    None,
    "how many runs at a time [default: one on each of --gpus, or else 1]",
    lower_bound=1,
    **_PLACE,
)
flags.DEFINE_list(
    "gpus",
    None,
    "GPUs such as 0,1; each run has one to itself [default: every run sees them all]",
    **_PLACE,
)
flags.DEFINE_boolean("dry_run", False, "print the commands and do nothing", **_PLACE)

POLL_SECONDS = 0.2
SHOWN_OF_A_FAILURE = 10
"""Lines of its log."""


def main(values: flags.FlagValues, spec: str, out: str) -> int:
    """Runs what is left of a sweep; gives the exit status."""
    folder, gpus, dry = pathlib.Path(out), places(values), values["dry_run"].value
    runs = sweep.plan(pathlib.Path(spec), folder)
    try:
        squeue.queued(folder)
    except UsageError as error:
        raise UsageError(
            f"{folder}/jobs says that runs were given to SLURM, but {error}; "
            "if none is in a queue any more, remove that file"
        ) from None
    if dry:
        show_plan(folder, runs, gpus)
        return 0
    make_folder(folder)
    sweep.write(pathlib.Path(spec), folder, runs)
    with recorded_signals() as signals:
        outcomes = run_all(folder, runs, gpus, signals)
    if report(folder, outcomes, len(runs)):
        return 0
    if signals:
        return INTERRUPTED if signal.SIGINT in signals else PREEMPTED
    return 1


def places(values: flags.FlagValues) -> list[str | None]:
    """As many as there may be runs at a time: the GPU of each, or None if it sees them all.

    Raises:
      UsageError: more runs at a time than GPUs, or no list of GPUs.
    """
    gpus, parallel = values["gpus"].value, values["parallel"].value
    if gpus is None:
        return [None] * (parallel or 1)
    if not gpus or "" in gpus or len(set(gpus)) < len(gpus):
        raise UsageError(f"gpus is {','.join(gpus)!r}; it must name each GPU once, as in 0,1")
    if parallel is not None and parallel > len(gpus):
        raise UsageError(
            f"parallel is {parallel}, but gpus names {len(gpus)} and each run has one to itself; "
            "lower parallel, or leave gpus out to share them"
        )
    return gpus[:parallel]


def show_plan(out: pathlib.Path, runs: list[Run], gpus: list[str | None]) -> None:
    """Prints the command of each run that would be started."""
    for index in sweep.unfinished(out, runs):
        if reason := kept_by(out, index):
            say(f"run {index} would be left out: {reason}")
            continue
        # Which one of several it gets depends on which is free first.
        gpu = gpus[0] if len(gpus) == 1 else None
        print(command_line(sweep.command(out, index, runs[index]), gpu))
    if len(gpus) > 1 and gpus[0] is not None:
        say(f"CUDA_VISIBLE_DEVICES of each would be the one of {','.join(gpus)} that is free")


def kept_by(out: pathlib.Path, index: int) -> str | None:
    """Why a run is not to be started: it is in other hands. None if it is in nobody's."""
    try:
        if index in squeue.queued(out):
            return "it is in the SLURM queue"
    except UsageError as error:  # of a queue that could be asked before
        return f"it may be in the SLURM queue: {error}"
    return "it is running already" if is_running(out, index) else None


def run_all(
    out: pathlib.Path, runs: list[Run], gpus: list[str | None], signals: list[int]
) -> dict[int, str]:
    """Runs what is unfinished, as many at a time as there are ``gpus``, until a signal comes.

    Returns:
      By run: done, failed, stopped or left out; without those that were not reached.
    """
    unfinished = sweep.unfinished(out, runs)
    outcomes = {index: "done" for index in range(len(runs)) if index not in unfinished}
    labels, waiting, free = sweep.labels(runs), collections.deque(unfinished), list(gpus)
    running: dict[int, Child] = {}
    began = time.monotonic()
    try:
        while (waiting or running) and not signals:
            while waiting and free and not signals:
                index = waiting.popleft()
                reason = kept_by(out, index)
                child = None if reason else start(out, index, runs[index], free[0])
                if child is None:
                    outcomes[index] = "left out"
                    say(f"run {index} is left out: {reason or 'another launcher was faster'}")
                    continue
                running[index] = child
                free.remove(child.gpu)
                say(f"run {index} started: {labels[index]}")
            time.sleep(POLL_SECONDS)
            for index in [i for i, child in running.items() if child.process.poll() is not None]:
                child = running.pop(index)
                free.append(child.gpu)
                outcomes[index] = outcome(out, index, child)
            show_progress(labels, running, outcomes, time.monotonic() - began)
    finally:  # also after an error here: nothing is left running
        stop(running, signals)
    ended = {index: outcome(out, index, child, told=True) for index, child in running.items()}
    return outcomes | ended


def outcome(out: pathlib.Path, index: int, child: Child, *, told: bool = False) -> str:
    """What has become of a run that has ended, perhaps as it was told to; says it."""
    code, took = child.process.returncode, duration(time.monotonic() - child.started)
    if is_done(sweep.workdir(out, index)):
        say(f"run {index} done in {took}")
        return "done"
    # Before it has loaded everything, a run cannot save and just ends at SIGTERM.
    if code in (PREEMPTED, -signal.SIGTERM) or (told and code == -signal.SIGKILL):
        say(f"run {index} stopped after {took}")
        return "stopped"
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit status {code}"
    how = "ended without a summary.json" if code == 0 else how
    lines = last_lines(child.log, child.log_start, SHOWN_OF_A_FAILURE)
    say("\n    ".join([f"run {index} {how} after {took}; the end of {child.log}:", *lines]))
    return "failed"


def show_progress(
    labels: list[str], running: Mapping[int, Child], outcomes: Mapping[int, str], seconds: float
) -> None:
    """Draws a line for the sweep and one for each run in progress."""
    counts = collections.Counter(outcomes.values())
    waiting = len(labels) - len(running) - len(outcomes)
    first = f"{counts['done']} done, {len(running)} running, {waiting} waiting"
    lines = [f"{first}, {counts['failed']} failed; {duration(seconds)}"]
    for index, child in running.items():
        last = "".join(last_lines(child.log, child.log_start, 1))
        lines.append(f"  {index}  {labels[index]}  {last}")
    draw(lines)


def report(out: pathlib.Path, outcomes: Mapping[int, str], total: int) -> bool:
    """Tells what has become of all runs, and gives whether all are done."""
    states = [outcomes.get(index, "not started") for index in range(total)]
    # What was left out may have been done by the other one.
    states = [
        "done" if is_done(sweep.workdir(out, index)) else state
        for index, state in enumerate(states)
    ]
    counts = collections.Counter(states)
    say(f"of {total} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for index, state in enumerate(states):
        if state in ("failed", "stopped"):
            say(f"  run {index} {state}: {log_path(out, index)}")
    if counts["done"] < total:
        say("run the same command again to go on with what is not done")
    return counts["done"] == total
