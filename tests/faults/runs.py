"""Runs as processes of their own, and what they leave."""

import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from bbo import trees
from bbo.files import digest_of_arrays, parse_json, read_lines
from bbo.pipeline.finished import read_network
from bbo.types import RunError

ROOT = pathlib.Path(__file__).parents[2]
POLL = 0.002
"""Seconds between two looks at a running program."""
TIMES = ("seconds", "seconds_to_train", "seconds_to_prune_and_evaluate")
"""What two equal runs do not have in common."""
REFUSED = "refused"
SHORT = (
    *("--epochs=4", "--checkpoint_every=1", "--batch_size=256", "--width=0.5"),
    *("--sparsities=0,0.5,0.8", "--granularity=filter,weight"),
)


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    """Negative: by that signal."""
    output: str
    errors: str


def run(
    folder: pathlib.Path,
    settings: tuple[str, ...] = SHORT,
    *,
    kill_when: Callable[[pathlib.Path, float], bool] | None = None,
) -> Ended:
    """Runs ``experiments.run``, to its end or until it is killed.

    Args:
      folder: of the run.
      settings: its flags.
      kill_when: asked all the time with the folder and the seconds since the start; SIGKILL once it
        says yes.
    """
    command = [sys.executable, "-m", "experiments.run", f"--workdir={folder}", *settings]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "errors": "replace",
    }
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        watcher = threading.Thread(target=_watch, args=(process, folder, kill_when))
        if kill_when is not None:
            watcher.start()
        output, errors = process.communicate()
        if kill_when is not None:
            watcher.join()
    return Ended(process.returncode, output, errors)


def _watch(
    process: subprocess.Popen,
    folder: pathlib.Path,
    kill_when: Callable[[pathlib.Path, float], bool],
) -> None:
    started = time.monotonic()
    while process.poll() is None:
        try:
            due = kill_when(folder, time.monotonic() - started)
        except OSError:  # a folder that is removed under the eyes
            due = False
        if due:
            process.kill()
            return
        time.sleep(POLL)


def results(folder: pathlib.Path) -> dict[str, object]:
    """All that a finished run has found out, to the last bit, by file; of each of several members.

    Raises:
      OSError, ValueError, UsageError: its records are damaged.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "curve.csv":
            found[name] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            found[name] = [_without_times(line) for line in read_lines(path, strict=True)]
        elif path.name == "summary.json":
            found[name] = _without_times(parse_json(path.read_bytes()))
            if (path.parent / "checkpoints").is_dir():
                found[f"{name}: network"] = _network(path.parent)
    return found


def _network(folder: pathlib.Path) -> str:
    """The digest of what a run has trained, or ``REFUSED``: it is damaged, and that is told."""
    try:
        return digest_of_arrays(trees.flatten(read_network(folder).variables))
    except RunError:
        return REFUSED


def _without_times(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in TIMES}
