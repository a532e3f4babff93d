"""Which runs of a sweep SLURM has, by what was noted of their submission in OUT/jobs."""

import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

from bbo.types import UsageError

COLUMNS = "%F|%K|%T|%M|%R|%j"
"""Id and index in an array, state, time, reason and, as it may hold any sign, last the name."""


class Job(NamedTuple):
    """What a queue says of a run."""

    state: str
    """As SLURM calls it: PENDING, RUNNING, COMPLETING..."""
    elapsed: str
    """Time since the start, as ``[D-[H:]]M:S``."""
    reason: str
    """Why it waits, in brackets, or on which nodes it is."""


def queued(out: pathlib.Path) -> dict[int, Job]:
    """The runs of a sweep that wait, run or end just now; without OUT/jobs, {} at once.

    Raises:
      UsageError: squeue is not there, or fails; OUT/jobs cannot be understood.
    """
    submitted = _submitted(out)
    if not submitted:
        return {}
    found = {}
    # --all: hidden partitions too. A user's settings of squeue might hide jobs or columns.
    unset = {name: text for name, text in os.environ.items() if not name.startswith("SQUEUE_")}
    listed = tool("squeue", "--all", "--noheader", "--array", "-o", COLUMNS, env=unset)
    for line in listed.splitlines():
        array, *rest = line.split("|", 5)
        if array not in submitted:
            continue
        index, *job, name = rest
        offset, ours = submitted[array]
        # One day SLURM begins anew with small ids, and what has ours is a job of somebody else.
        if index.isdecimal() and name == ours:
            found[offset + int(index)] = Job(*job)
    return dict(sorted(found.items()))


def _submitted(out: pathlib.Path) -> dict[str, tuple[int, str]]:
    """The offset and the name of every array in OUT/jobs, by its job id."""
    path = out / "jobs"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        split = [line.split(" ", 2) for line in lines]
        return {array: (int(offset), name) for array, offset, name in split}
    except ValueError:
        raise UsageError(
            f"{path} must hold a job id, an offset and a name a line, and does not; remove it if "
            "no run is in a queue any more"
        ) from None


def tool(*command: str, env: dict[str, str] | None = None) -> str:
    """What a command of SLURM prints. Raises UsageError if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    except FileNotFoundError:
        raise UsageError(
            f"{command[0]} is not found; do this on a machine with SLURM, or use launch.local"
        ) from None
    if done.returncode:
        raise UsageError(f"{command[0]} fails with status {done.returncode}: {done.stderr}")
    sys.stderr.write(done.stderr)  # what sites tell about a job that they accept
    return done.stdout
