"""Launching in tests: sweeps of the program held_run, started and looked at."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from experiments.command_line.program import run_program
from launch import logs
from launch.local import program as local

TESTS = pathlib.Path(__file__).parent
LAUNCHERS: list[subprocess.Popen] = []
PATIENCE = 60
"""Seconds after which something that must happen counts as not happening."""


def prepare(tmp_path, monkeypatch) -> Iterator[pathlib.Path]:
    """The folder of a sweep of held_run, yet to be made; afterwards nothing is left running."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    out = tmp_path / "out"
    yield out
    for process in LAUNCHERS:  # of tests that have failed
        process.kill()
        process.communicate()
    LAUNCHERS.clear()
    for folder in out.glob("[0-9]*"):
        index = int(folder.name)
        if logs.is_running(out, index):
            os.killpg(lines(out, index, "starts")[-1]["pid"], signal.SIGKILL)


def write_program(path, text):
    """A program in Python; the path of the interpreter may be too long or odd for a #! line."""
    source = path.with_name(f"{path.name}.py")
    source.write_text(text)
    command = shlex.join(["exec", sys.executable, str(source)])
    path.write_text(f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)


def write_spec(out, *runs):
    spec = out.parent / "spec.py"
    spec.write_text(f"SCRIPT = 'held_run'\n\ndef runs():\n    return {list(runs)!r}\n")
    return spec


def launch(out, *argv):
    """Runs the launcher in this process."""
    arguments = ["local", str(out.parent / "spec.py"), str(out), *argv]
    return run_program(local.main, local.FLAGS, arguments, positional=("SPEC", "OUT"))


def launcher(out, *argv, stderr=subprocess.PIPE):
    """Starts the launcher as a program."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests were started with `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # or under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    command = [sys.executable, "-m", "launch.local", out.parent / "spec.py", out, *argv]
    process = subprocess.Popen(
        command,
        cwd=TESTS.parents[1],
        stdin=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    LAUNCHERS.append(process)
    return process


def ctrl_c(process):
    """What a terminal does: all processes of the group get the signal."""
    os.killpg(process.pid, signal.SIGINT)


def end(process):
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def wait_for(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def lines(out, index, name):
    path = out / f"{index:04d}" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def holds(out, *indices):
    return all((out / f"{index:04d}" / "holds").exists() for index in indices)
