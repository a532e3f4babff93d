"""The logs of runs on this machine; the process of a run holds a lock on its own.

So whether a run is running can be told from its log alone: the lock ends with the process, however
that ends, and stays when the launcher goes.
"""

import fcntl
import os
import pathlib
import re
import time
from typing import BinaryIO

from bbo.types import UsageError

LOOKED_AT = 16384
"""Bytes at the end of a log in which its last lines are sought."""


def log_path(out: pathlib.Path, index: int) -> pathlib.Path:
    """Where a run writes, one attempt after the other."""
    return out / "logs" / f"{index:04d}.log"


def make_folder(out: pathlib.Path) -> None:
    """Makes the folder of the logs, and ``out``.

    Raises:
      UsageError: it cannot be made.
    """
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out}/logs cannot be made: {error.strerror}; name another folder"
        ) from None


def is_running(out: pathlib.Path, index: int) -> bool:
    """Whether a launcher has started the run on this machine and it has not ended."""
    try:
        with log_path(out, index).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no log yet, one of another user, or a file system without locks
        return False
    return False


def open_locked(out: pathlib.Path, index: int) -> BinaryIO | None:
    """The log, to be appended to; None if another run of this index is running.

    The lock lasts until the last process that has inherited the file ends.
    """
    log = log_path(out, index).open("ab")
    for _ in range(10):
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return log
        except BlockingIOError:
            time.sleep(0.05)  # it may be is_running that has it for a moment
        except OSError:  # a file system without locks, as Lustre may be: better than not at all
            return log
    log.close()
    return None


def last_lines(path: pathlib.Path, start: int, count: int) -> list[str]:
    """The last lines of a log from byte ``start`` on; each state of a progress bar is a line."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(start, end - LOOKED_AT))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:  # tidied away
        return []
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)  # colours and the like
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-count:]
