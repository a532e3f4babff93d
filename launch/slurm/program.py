"""A sweep on SLURM: what is neither done nor queued becomes one array of jobs.

  python -m launch.slurm SPEC OUT [--parallel=N] [--python=PYTHON] [--snapshot] [-- SBATCH_OPTIONS]

  python -m launch.slurm sweep.py out --parallel=32 -- -p gpu --gres=gpu:1 -c 8 --time=4:00:00
  python -m launch.slurm sweep.py out -- -N 4 --ntasks-per-node=1 --gres=gpu:8 --time=24:00:00

SPEC is a sweep as launch.sweep describes it. A run that is preempted or reaches its time limit
saves, goes back in the queue by itself and resumes; one that failed or was cancelled does so when
the same command is given again. Job ids are kept in OUT/jobs, logs in OUT/logs.
"""

import contextlib
import fcntl
import itertools
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

from absl import flags

from bbo.files import write_text
from bbo.settings.installed import with_names_here
from bbo.settings.workdir import LOCK
from bbo.types import UsageError
from experiments.command_line.program import run_program
from launch import logs, snapshot, sweep
from launch.arguments import require_given
from launch.slurm import sbatch, squeue

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " slurm"}
flags.DEFINE_integer(
    "parallel", None, "how many runs at a time [default: all]", lower_bound=1, **_PLACE
)
flags.DEFINE_boolean(
    "snapshot",
    False,
    "run the source as committed now, copied to OUT/src, not as it is when a job starts",
    **_PLACE,
)
flags.DEFINE_string(
    "python",
    sys.executable,
    "Python of the runs, with jax, which that of a login node may lack",
    **_PLACE,
)
flags.DEFINE_boolean("dry_run", False, "print the commands and do nothing", **_PLACE)


class Array(NamedTuple):
    """Runs that are one array of jobs."""

    offset: int
    """What is to be added to a task's index for the index of its run."""
    runs: list[int]


class Submission(NamedTuple):
    """What the arrays of one submission share."""

    out: pathlib.Path
    name: str
    """That the jobs have."""
    parallel: int | None
    python: str
    source: pathlib.Path | None
    options: Sequence[str]


def max_array_size() -> int:
    """One more than the largest index of an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", squeue.tool("scontrol", "show", "config"), re.M)
    return int(found[1]) if found else 1001


def _likely_array_size() -> int:
    """The same, or SLURM's default where there is none to ask."""
    try:
        return max_array_size()
    except UsageError as error:
        print(f"arrays of 1001 are assumed: {error}", file=sys.stderr)
        return 1001


def ranges(indices: Sequence[int]) -> str:
    """Increasing numbers in the notation of SLURM.

    >>> ranges([0, 1, 2, 3, 7, 9, 10])
    '0-3,7,9-10'
    """
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in found)


def arrays(runs: Sequence[int], size: int) -> list[Array]:
    """Runs as few arrays with indices below ``size``.

    >>> arrays([0, 1, 11, 12, 30], size=10)
    [Array(offset=0, runs=[0, 1]), Array(offset=10, runs=[11, 12]), Array(offset=30, runs=[30])]
    """
    blocks = itertools.groupby(runs, lambda run: run // size * size)
    return [Array(offset, list(members)) for offset, members in blocks]


def command(submission: Submission, array: Array, after: str | None) -> list[str]:
    """How to submit an array; ``after`` is the id of one that must have ended before it."""
    out, name, parallel, python, source, options = submission
    indices = ranges([run - array.offset for run in array.runs])
    log = str(out / "logs" / "slurm-").replace("%", "%%")
    return [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--output={log}%A_%a.log",
        f"--array={indices}" + (f"%{parallel}" if parallel else ""),
        # %N bounds one array: to bound all, they go one after the other. Options given by the
        # user come later and win, so theirs is the choice to let all start at once.
        *([f"--dependency=afterany:{after}"] if after and parallel else []),
        *options,
        str(pathlib.Path(__file__).with_name("job.sh")),
        *(str(out), str(array.offset), python, *([str(source)] if source else [])),
    ]


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[TextIO]:
    """OUT/jobs, to write to; only one process at a time has it. OUT/logs is there, too."""
    logs.make_folder(out)
    with open(out / "jobs", "a", encoding="utf-8") as jobs:
        try:
            fcntl.flock(jobs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another launch.slurm is submitting runs of {out}; wait for it"
            raise UsageError(message) from None
        except OSError:
            pass  # a file system without locks, as Lustre may be: better unguarded than not at all
        yield jobs


@contextlib.contextmanager
def _taken_back(out: pathlib.Path, jobs: TextIO) -> Iterator[None]:
    """If what is done in this context is refused before a job is submitted, no run was frozen.

    Else the spec would be bound to runs that there have never been.
    """
    runs, before = out / "runs.jsonl", jobs.tell()
    held = runs.read_text(encoding="utf-8") if runs.exists() else None
    try:
        yield
    except UsageError:
        if jobs.tell() == before and held is not None:
            write_text(runs, held)
        elif jobs.tell() == before:
            for path in (runs, out / LOCK, pathlib.Path(jobs.name)):
                path.unlink(missing_ok=True)
            for folder in (out / "logs", out):
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()
        raise


def main(values: flags.FlagValues, spec: str, out: str, *, options: Sequence[str]) -> None:
    """Submits what is left of a sweep, or shows how."""
    sbatch.check(options)
    require_given(values, "python")
    # Also tells whether SLURM is there, before anything is written.
    size = _likely_array_size() if values.dry_run else max_array_size()
    folder = pathlib.Path(out).absolute()  # --chdir may be among the options
    runs = sweep.plan(pathlib.Path(spec), folder)
    source = snapshot.plan(runs[0].script, folder / "src") if values.snapshot else None
    name = sbatch.value(options, "-J", "--job-name") or pathlib.Path(spec).stem
    place = source.folder if source else None
    submission = Submission(folder, name, values.parallel, values.python, place, options)
    if values.dry_run:
        for before, array in enumerate(arrays(_to_submit(folder, runs, sys.stderr), size)):
            print(shlex.join(command(submission, array, "PREVIOUS_ID" if before else None)))
        return
    squeue.queued(folder)  # may refuse, and nothing has been written yet
    with _alone(folder) as jobs, _taken_back(folder, jobs):
        found = arrays(_to_submit(folder, runs, sys.stdout), size)
        if source and found:
            snapshot.write(source)
        sweep.write(pathlib.Path(spec), folder, runs)
        _submit(submission, found, jobs)


def _to_submit(out: pathlib.Path, runs: list[sweep.Run], stream: TextIO) -> list[int]:
    """The runs that nobody has done or will do; tells on ``stream`` how many, and of the others."""
    left, waiting = sweep.unfinished(out, runs), squeue.queued(out)
    others = {
        "in the queue already": [run for run in left if run in waiting],
        "running on this machine": [run for run in left if logs.is_running(out, run)],
    }
    found = [run for run in left if not any(run in kept for kept in others.values())]
    counts = f"{len(runs)} runs: {len(runs) - len(left)} done, {len(found)} to submit"
    kept = [f"{where}: {ranges(indices)}" for where, indices in others.items() if indices]
    print(", ".join([counts, *kept]), file=stream)
    return found


def _submit(submission: Submission, found: list[Array], jobs: TextIO) -> None:
    """Submits arrays and notes each at once: a later one may be refused."""
    ids = []
    for array in found:
        printed = squeue.tool(*command(submission, array, ids[-1] if ids else None))
        ids.append(printed.strip().partition(";")[0])  # the rest is the name of a cluster
        if not ids[-1].isdecimal():
            raise UsageError(f"sbatch gives no job id but {printed!r}; leave such options out")
        jobs.write(f"{ids[-1]} {array.offset} {submission.name}\n")
        jobs.flush()
        print(f"job {ids[-1]}: runs {ranges(array.runs)}", flush=True)
    if ids:
        watch = with_names_here(f"python -m launch.status {submission.out}")
        print(f"Watch:  {watch}\nCancel: scancel {' '.join(ids)}")


def run(argv: Sequence[str]) -> int:
    """The program; what follows ``--`` is for sbatch. Gives the exit status."""
    split = argv.index("--") if "--" in argv else len(argv)

    def submit(values: flags.FlagValues, spec: str, out: str) -> None:
        main(values, spec, out, options=argv[split + 1 :])

    return run_program(submit, FLAGS, argv[:split], positional=("SPEC", "OUT"))
