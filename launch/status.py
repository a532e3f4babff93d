"""What has become of the runs of a sweep.

  python -m launch.status OUT                  a table of all runs, and counts
  python -m launch.status OUT --watch=10       the same every ten seconds until all are done
  python -m launch.status OUT --csv=runs.csv   a line per run: its flags and its summary.json

NEW has never been started, PENDING waits in a queue, RUNNING runs, DONE has its summary.json.
DAMAGED has it too, but some of its files are not as it left them: launched again, it makes them
again. STOPPED was started and is none of these: it saved when it was told to stop, or it failed;
its log in OUT/logs tells. Other states are those of SLURM.

It asks SLURM and Kubernetes if the sweep was submitted there. What launch.tpu does is RUNNING as
long as launch.tpu runs too, on a machine that sees its locks; after Ctrl-C there it may go on, and
be STOPPED here.
"""

import collections
import csv
import io
import pathlib
import sys
import time
from typing import Any, NamedTuple

from absl import flags

from bbo.files import write_text
from bbo.settings.workdir import is_done, is_finished
from bbo.types import RunError, UsageError
from experiments.command_line.program import leave, run_program
from launch import run_state, sweep
from launch.console import say
from launch.k8s import program as k8s
from launch.logs import is_running, log_path
from launch.slurm import squeue

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " status"}
flags.DEFINE_float("watch", None, "show it again every so many seconds", lower_bound=0.1, **_PLACE)
flags.DEFINE_string("csv", None, "write a table to this file instead, or print it (-)", **_PLACE)

CLEAR = "\x1b[H\x1b[2J"


class Status(NamedTuple):
    """How it stands with a run."""

    state: str
    queue: str
    """What the queue says: the time since its start, and why it waits or where it runs."""
    progress: str


def main(values: flags.FlagValues, out: str) -> None:
    """Shows a sweep."""
    folder, seconds, file = pathlib.Path(out), values["watch"].value, values["csv"].value
    if file is not None and seconds is not None:
        raise UsageError("csv is written once; leave watch out")
    runs = sweep.read_runs(folder)
    if file is not None:
        write_csv(file, folder, runs)
        return
    try:
        watch(folder, runs, seconds)
    except KeyboardInterrupt:  # the way to end it
        print()


def watch(out: pathlib.Path, runs: list[sweep.Run], seconds: float | None) -> None:
    """Prints the table once, or every so many seconds until all runs are done."""
    while True:
        found = statuses(out, len(runs))
        clear = CLEAR if seconds is not None and sys.stdout.isatty() else ""
        print(clear + table(runs, found), flush=True)
        if seconds is None or all(status.state == "DONE" for status in found):
            return
        time.sleep(seconds)


def statuses(out: pathlib.Path, total: int) -> list[Status]:
    """How it stands with each run."""
    jobs = {}
    for queued in (squeue.queued, k8s.queued):
        try:
            jobs |= queued(out)
        except (UsageError, RunError) as error:  # looked at from a machine without SLURM
            say(f"PENDING cannot be told: {error}")
    return [_status(out, index, jobs.get(index)) for index in range(total)]


def _status(out: pathlib.Path, index: int, job: squeue.Job | None) -> Status:
    folder = sweep.workdir(out, index)
    queue, accuracy = "", ""
    if is_done(folder):
        state, accuracy = "DONE", run_state.accuracy(folder)
    elif job:
        state, queue = job.state, f"{job.elapsed} {job.reason}".strip()
    elif is_running(out, index):
        state = "RUNNING"
    elif is_finished(folder):
        state = "DAMAGED"
    else:
        state = "STOPPED" if folder.exists() or log_path(out, index).exists() else "NEW"
    return Status(state, queue, accuracy or run_state.epoch(folder))


def table(runs: list[sweep.Run], found: list[Status]) -> str:
    """A line per run, and how many are in which state."""
    rows = [
        (str(index), *status, label)
        for index, (status, label) in enumerate(zip(found, sweep.labels(runs), strict=True))
    ]
    # A column that is empty everywhere is left out.
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    counts = collections.Counter(status.state for status in found)
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join([*lines, f"{len(runs)} runs: {total}"])


def write_csv(file: str, out: pathlib.Path, runs: list[sweep.Run]) -> None:
    """Writes what is known of each run: index, state, flags, and the numbers of its summary."""
    rows = []
    for index, (run, status) in enumerate(zip(runs, statuses(out, len(runs)), strict=True)):
        flag_values = {name: sweep.text_of(value) for name, value in run.flags.items()}
        is_known = status.state == "DONE"
        numbers = flat(run_state.summary(sweep.workdir(out, index))) if is_known else {}
        rows.append({"index": index, "state": status.state} | flag_values | numbers)
    # Flags of all runs before numbers: a run that is not done has no numbers.
    names = ["index", "state", *(name for run in runs for name in run.flags)]
    columns = dict.fromkeys([*names, *(name for row in rows for name in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if file == "-":
        print(text.getvalue(), end="")
        return
    try:
        write_text(pathlib.Path(file), text.getvalue())
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; name another") from None
    say(f"{len(rows)} runs written to {file}")


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The plain values of nested dicts.

    >>> flat({"macs": 3, "top1": {"none": 0.5, "batch_norm": 0.75}})
    {'macs': 3, 'top1.none': 0.5, 'top1.batch_norm': 0.75}
    """
    found = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            found[prefix + name] = value
    return found


if __name__ == "__main__":
    leave(run_program(main, FLAGS, sys.argv, positional=("OUT",)))
