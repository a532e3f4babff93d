"""Options of sbatch that would break a sweep are refused before anything is submitted."""

import itertools
import math
import os
import re
from collections.abc import Sequence

from bbo.types import UsageError

SIGNAL = "TERM@120"
"""What job.sh asks for: SIGTERM so many seconds before the time limit."""
LEAST_LEADS = 2
"""A time limit in leads of the signal; with less a run is told to end when it has hardly begun."""

REFUSED = {
    (
        "-a",
        "--array",
    ): "the runs to submit are found by looking; --parallel bounds how many at once",
    ("-W", "--wait"): "job ids are kept as soon as there are; watch with launch.status",
    ("-M", "--clusters"): "squeue would not see them; set SLURM_CLUSTERS instead",
    ("", "--wrap"): "the script is launch/slurm/job.sh",
    (
        "",
        "--gpus-per-task",
    ): "jax then finds other GPUs than it counts on; ask for those of a node, --gres=gpu:N",
}


def check(options: Sequence[str]) -> None:
    """Checks what a user passes on to sbatch; what is not told here sbatch itself decides.

    Raises:
      UsageError: an option that the launcher sets itself, a signal other than SIGTERM to all
        processes, or a time limit of less than twice the seconds that the signal comes before it.
    """
    for (short, long), why in REFUSED.items():
        if value(options, short, long) is not None:
            raise UsageError(f"{long} cannot be passed on to sbatch: {why}")
    signal = value(options, "", "--signal") or os.environ.get("SBATCH_SIGNAL") or SIGNAL
    limit = value(options, "-t", "--time") or os.environ.get("SBATCH_TIMELIMIT")
    before = lead(signal)
    if limit and time_limit(limit) < LEAST_LEADS * before:
        raise UsageError(
            f"--time={limit} is too short: SIGTERM comes {before} seconds before the end, at which "
            f"runs save and stop; give at least {math.ceil(LEAST_LEADS * before / 60)} minutes, or "
            "another --signal=TERM@SECONDS"
        )


def value(options: Sequence[str], short: str, long: str) -> str | None:
    """The last value given for an option, as ``-t X``, ``-tX``, ``--time X`` or ``--time=X``.

    >>> value(["-t", "5", "--time=7"], "-t", "--time")
    '7'
    """
    found = None
    for word, following in itertools.zip_longest(options, options[1:], fillvalue=""):
        if word in (short, long):
            found = following
        elif word.startswith(f"{long}="):
            found = word.partition("=")[2]
        elif short and word.startswith(short):
            found = word[len(short) :]
    return found


def lead(signal: str) -> int:
    """How many seconds before the time limit ``--signal`` sends SIGTERM; sbatch's default is 60.

    Raises:
      UsageError: it is another signal, or for the batch shell only.
    """
    match = re.fullmatch(r"(?:R:)?(?:15|(?:SIG)?TERM)(?:@(\d+))?", signal, re.IGNORECASE)
    if not match:
        raise UsageError(
            f"--signal={signal} would not reach the runs, which save on SIGTERM; "
            f"give --signal=TERM@SECONDS [default: {SIGNAL}]"
        )
    return int(match[1] or 60)


def time_limit(text: str) -> float:
    """A time limit of SLURM in seconds, rounded up to minutes as SLURM does.

    >>> time_limit("90"), time_limit("1:30:00"), time_limit("1-12"), time_limit("0:20")
    (5400.0, 5400.0, 129600.0, 60.0)

    Raises:
      UsageError: it is none.
    """
    if text.upper() in ("INFINITE", "UNLIMITED", "-1"):
        return math.inf
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise UsageError(
            f"--time={text} is no time limit; give minutes, MINUTES:SECONDS, H:M:S, DAYS-HOURS, "
            "DAYS-H:M or DAYS-H:M:S"
        )
    days, *given = match.groups()
    parts = [int(part) for part in given if part is not None]
    # After days the first number is hours; two numbers alone are minutes and seconds.
    units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    seconds = int(days or 0) * 86400 + sum(
        part * unit for part, unit in zip(parts, units, strict=False)
    )
    return math.ceil(seconds / 60) * 60.0 or math.inf
