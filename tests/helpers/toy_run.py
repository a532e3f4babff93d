"""A program that keeps the launchers' contract with a run, needs no jax and is done in no time.

It counts steps, saves on SIGTERM and exits 75, goes on from there when started again, and writes
summary.json last. What process P saw when it started is a line in the file starts.P.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import time

VERSION = "as committed"
SEEN = ("JAX_LOCAL_DEVICE_IDS", "SRUN_CPUS_PER_TASK", "SLURM_NTASKS")


def arguments() -> argparse.Namespace:
    """What the command asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds a step, if not resumed")
    parser.add_argument("--import_time", type=float, default=0.0, help="seconds, if not resumed")
    parser.add_argument("--crash", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Counts to ``steps``."""
    asked = arguments()
    asked.workdir.mkdir(parents=True, exist_ok=True)
    process = os.environ.get("SLURM_PROCID", "0")
    saved, starts = asked.workdir / "saved", asked.workdir / f"starts.{process}"
    first = not starts.exists()
    done = int(saved.read_text()) if saved.exists() else 0
    with starts.open("a") as file:
        seen = {name: os.environ.get(name) for name in SEEN}
        told = {"step": done, "distributed": asked.distributed, "version": VERSION}
        told |= {"time": time.time(), "pid": os.getpid()}
        file.write(json.dumps(told | seen) + "\n")
    time.sleep(first * asked.import_time)  # a SIGTERM now is deadly
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    (asked.workdir / f"ready.{process}").touch()
    for step in range(done, asked.steps):
        time.sleep(first * asked.pause)
        if asked.crash:
            return 1
        if stop:
            if process == "0":
                saved.write_text(str(step + 1))
            return 75
    if process == "0":
        summary = asked.workdir / ".summary"
        summary.write_text(json.dumps({"steps": asked.steps, "time": time.time()}))
        summary.rename(asked.workdir / "summary.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
