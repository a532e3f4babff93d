"""Runs as processes of this machine: each started with its log, and all stopped together."""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bbo.settings.workdir import is_done
from launch import sweep
from launch.console import say
from launch.logs import log_path, open_locked

POLL_SECONDS = 0.05


class Child(NamedTuple):
    """A run that this process has started."""

    process: subprocess.Popen
    gpu: str | None
    log: pathlib.Path
    log_start: int
    """The byte of the log at which this attempt begins."""
    started: float
    """By ``time.monotonic``."""


def start(out: pathlib.Path, index: int, run: sweep.Run, gpu: str | None) -> Child | None:
    """Starts a run that sees one GPU, or all if it is None; None if another launcher was faster."""
    log = open_locked(out, index)
    if log is None:
        return None
    with log:
        if is_done(sweep.workdir(out, index)):
            return None
        arguments = sweep.command(out, index, run)
        log.write(f"$ {command_line(arguments, gpu)}\n".encode())
        log.flush()
        log_start = log.tell()
        process = subprocess.Popen(
            arguments,
            env=os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            stdin=subprocess.DEVNULL,
            stdout=log,  # and with it the lock
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the launcher alone
        )
        return Child(process, gpu, log_path(out, index), log_start, time.monotonic())


def command_line(arguments: list[str], gpu: str | None) -> str:
    """A command as it would be given to a shell.

    >>> command_line(["python", "-m", "train", "--on=.*/kernel"], gpu="1")
    "CUDA_VISIBLE_DEVICES=1 python -m train '--on=.*/kernel'"
    """
    assignment = "" if gpu is None else f"CUDA_VISIBLE_DEVICES={shlex.quote(gpu)} "
    return assignment + shlex.join(arguments)


@contextlib.contextmanager
def recorded_signals() -> Iterator[list[int]]:
    """Gives a list that grows by each signal that asks to stop.

    None of them interrupts anything, not even the moment between the start of a process and its
    entry among those to be stopped. One that is ignored, as SIGHUP under nohup, stays ignored.
    """
    received: list[int] = []
    former = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def stop(running: Mapping[int, Child], signals: list[int]) -> None:
    """Tells runs to save and end, and waits until they have; kills them at a further Ctrl-C.

    Args:
      running: the runs.
      signals: from ``recorded_signals``; the first, if there is one, is why they are stopped.
    """
    heard = min(len(signals), 1)  # a second may have come before the launcher has looked
    left = [child.process for child in running.values()]
    for process in left:
        process.terminate()
    if left:
        which = ", ".join(map(str, running))
        say(f"stopping {which}, which save first; Ctrl-C kills them")
    while left := [process for process in left if process.poll() is None]:
        if signal.SIGINT in signals[heard:]:
            for process in left:
                with contextlib.suppress(OSError):  # it has just ended
                    os.killpg(process.pid, signal.SIGKILL)  # with all that it has started itself
        time.sleep(POLL_SECONDS)
