"""A sweep on a TPU VM: its runs one after another, each on every worker, through gcloud.

  python -m launch.tpu SPEC OUT --name=POD --zone=ZONE [--run=INDEX] [--dry_run]

SPEC is a sweep as launch.sweep describes it. All workers must have the repository with its
environment, and see OUT where this machine sees it: a Filestore (NFS) share, or a bucket mounted
with gcsfuse. The first is done once for each TPU VM, for instance so:

  gcloud compute tpus tpu-vm ssh POD --zone=ZONE --worker=all --command='git clone URL bbo &&
    cd bbo && python3.11 -m venv .venv && .venv/bin/python -m pip install -e ".[tpu]"'

There is no queue. At a run that fails, or that is preempted (exit status 75), it stops; the same
command goes on with what is not done.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import BinaryIO

from absl import flags

from bbo.settings.workdir import is_done
from bbo.types import RunError, UsageError
from experiments.command_line.program import PREEMPTED, leave, run_program
from launch import logs, sweep
from launch.arguments import require_given, shared_folder

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " tpu"}
flags.DEFINE_string("name", None, "name of the TPU VM, for instance a pod (required)", **_PLACE)
flags.DEFINE_string("zone", None, "its zone (required)", **_PLACE)
flags.DEFINE_string("project", None, "its project [default: that of gcloud]", **_PLACE)
flags.DEFINE_integer("run", None, "only this run, counted from 0", lower_bound=0, **_PLACE)
flags.DEFINE_string(
    "directory", "bbo", "the repository on the workers: absolute, or in the home folder", **_PLACE
)
flags.DEFINE_string(
    "python", ".venv/bin/python", "Python on the workers: absolute, or in --directory", **_PLACE
)
flags.DEFINE_boolean("dry_run", False, "print the commands and do nothing", **_PLACE)

PATIENCE = 60
"""Seconds until a file that a worker has written is seen here; NFS and gcsfuse cache absence."""


def command(values: flags.FlagValues, remote: str) -> list[str]:
    """Does something on all workers: the arguments of a process on this machine."""
    return [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", values.name, f"--zone={values.zone}"),
        *([f"--project={values.project}"] if values.project else []),
        "--worker=all",
        f"--command={remote}",
    ]


def remote_command(values: flags.FlagValues, arguments: list[str]) -> str:
    """What each worker is to do for a run, as a line of a shell."""
    # ssh begins in the home folder, and a quoted ~ would stay one.
    directory = shlex.quote(values.directory.removeprefix("~/"))
    # exec: signals must reach the training, not a shell that waits for it.
    return f"cd {directory} && exec {shlex.join([*arguments, '--distributed'])}"


def escaped(text: str) -> str:
    """A POSIX extended regular expression of a text; ``re.escape`` is for Python's.

    >>> print(escaped("/mnt/sweep 1.0 (a+b)"))
    /mnt/sweep 1\\.0 \\(a\\+b\\)
    """
    return re.sub(r"[][\\.^$*+?{}()|]", r"\\\g<0>", text)


def main(values: flags.FlagValues, spec: str, out: str) -> int:
    """Does what is left of a sweep, or shows how."""
    require_given(values, "name", "zone")
    folder = shared_folder(out)
    if not values.dry_run and not shutil.which("gcloud"):
        raise UsageError("gcloud is not found; install it (cloud.google.com/sdk), or use --dry_run")
    runs = sweep.plan(pathlib.Path(spec), folder)
    if values.run is not None and values.run >= len(runs):
        raise UsageError(f"there is no run {values.run}: {spec} has {len(runs)}, counted from 0")
    if not values.dry_run:
        logs.make_folder(folder)
        sweep.write(pathlib.Path(spec), folder, runs)
    for index in range(len(runs)) if values.run is None else [values.run]:
        workdir = sweep.workdir(folder, index)
        # Asked here and once: workers that disagreed would wait for each other for ever.
        if is_done(workdir):
            continue
        arguments = sweep.command(folder, index, runs[index], values.python)
        line = command(values, remote_command(values, arguments))
        if values.dry_run:
            print(shlex.join(line))
            continue
        with _locked(folder, index):
            print(f"run {index}: {sweep.describe(runs[index])}", flush=True)
            if status := _execute(values, line, workdir):
                return status
    return 0


def _locked(out: pathlib.Path, index: int) -> BinaryIO:
    """The log of a run, locked as by launch.local, so that others see that it is running.

    Raises:
      UsageError: it is already.
    """
    log = logs.open_locked(out, index)
    if log is None:
        raise UsageError(f"run {index} of {out} is running already; wait for it, or use --run")
    return log


def _execute(values: flags.FlagValues, line: list[str], workdir: pathlib.Path) -> int:
    """Status of a run on all workers: 0 if it is done, 75 if it was preempted.

    Raises:
      RunError: it failed.
    """
    # The brackets keep pkill from ending the shell that it is called by.
    pattern = f"[-]-workdir={escaped(str(workdir))}( |$)"
    end = command(values, shlex.join(["pkill", "-f", pattern]))
    leftovers = f"To end what may still work on it there: {shlex.join(end)}"
    try:
        status = subprocess.run(line).returncode
    except KeyboardInterrupt:  # It ends gcloud here, and nothing on the workers.
        print(f"the run {workdir} goes on on the workers. {leftovers}", file=sys.stderr)
        raise
    if status == PREEMPTED:
        print(f"preempted: {workdir} is saved; the same command resumes it", file=sys.stderr)
    elif status:
        raise RunError(
            f"the run {workdir} ended with status {status} on a worker; the same command goes on "
            f"with it. {leftovers}"
        )
    elif not _is_seen(workdir):
        raise RunError(
            f"the workers are done with {workdir}, but no summary.json is seen here; "
            "is OUT a folder that they share with this machine?"
        )
    return status


def _is_seen(workdir: pathlib.Path) -> bool:
    """Whether the end of a run is seen here, now or soon."""
    for _ in range(PATIENCE):
        if is_done(workdir):
            return True
        time.sleep(1)
    return is_done(workdir)


if __name__ == "__main__":
    leave(run_program(main, FLAGS, sys.argv, positional=("SPEC", "OUT")))
