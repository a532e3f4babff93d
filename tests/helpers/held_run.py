"""A program for the launchers: it counts steps, and waits where a test wants it to.

In its folder ``starts`` gets a line of JSON when it starts, ``steps`` a line for every step, and
``ended`` the time of its end. ``saved`` is the number of steps done when it was told to stop.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time


def arguments() -> argparse.Namespace:
    """What the command asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--hold", type=int, help="wait before this step until there is OUT/go")
    parser.add_argument("--meet", type=int, default=1, help="wait until so many runs have started")
    parser.add_argument("--end", default="done", choices=("done", "fail", "nothing", "kill", "75"))
    parser.add_argument("--deaf", action="store_true", help="SIGTERM does nothing")
    return parser.parse_args()


def append(path: pathlib.Path, record) -> None:
    """Adds a line, whole as far as a reader can tell."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def main() -> int:
    """Counts to ``steps``."""
    asked, told = arguments(), []
    out, folder = asked.workdir.parent, asked.workdir
    signal.signal(signal.SIGTERM, lambda *_: None if asked.deaf else told.append(True))
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "saved"
    done = int(saved.read_text()) if saved.exists() else 0
    start = {"pid": os.getpid(), "time": time.monotonic()}
    start["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    start["reads_nothing"] = os.path.samestat(os.fstat(0), os.stat(os.devnull))
    append(folder / "starts", start)
    if asked.deaf:
        subprocess.Popen(["sleep", "600"])  # a process that would be left over
    while len(list(out.glob("*/starts"))) < asked.meet and not told:
        time.sleep(0.01)
    for step in range(done, asked.steps):
        if step == asked.hold:
            (folder / "holds").touch()
        while step == asked.hold and not told and not (out / "go").exists():
            time.sleep(0.01)
        if told:
            saved.write_text(str(step))
            return 75
        append(folder / "steps", step)
        print(f"\rstep {step + 1}/{asked.steps}", end="", file=sys.stderr, flush=True)
    return end(folder, asked.end)


def end(folder: pathlib.Path, how: str) -> int:
    """Ends as asked."""
    append(folder / "ended", time.monotonic())
    if how == "done":
        (folder / ".summary").write_text(json.dumps({"top1": 0.5}))
        (folder / ".summary").rename(folder / "summary.json")
    if how == "fail":
        raise ArithmeticError("the loss is no number")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return 75 if how == "75" else 0


if __name__ == "__main__":
    sys.exit(main())
