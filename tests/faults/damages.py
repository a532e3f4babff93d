"""Files of runs that are damaged, one at a time: nothing may be wrong in silence."""

import pathlib
import random
import shutil
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.runs import REFUSED, Ended, results, run


class Damaged(NamedTuple):
    """A run of which one file was damaged, and how the same command then ended."""

    state: str
    """Of the run: finished or interrupted."""
    file: str
    damage: str
    outcome: str
    """``same``; ``told``: one line and no result; ``epochs lost, told``; ``network refused when
    read``: the records are the same; ``WRONG`` or ``TRACEBACK``."""
    told: str


def truncated(data: bytes, draw: random.Random) -> bytes:
    """Cut somewhere."""
    return data[: draw.randrange(len(data))] if data else b"x"


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """All bytes are 0 from somewhere on, as after a crash of the machine."""
    start = draw.choice([0, draw.randrange(len(data) + 1)])
    return data[:start] + bytes(len(data) - start) if data else b"\0"


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    if not data:
        return b"\x01"
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (truncated, zeroed, flipped)


def files_of(folder: pathlib.Path) -> list[str]:
    """The files of a run that a later command reads, not the events of TensorBoard or the lock."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(path.relative_to(folder)) for path in paths]
    return [name for name in names if not name.startswith("tensorboard/") and name != ".lock"]


def damaged_run(
    state: str, source: pathlib.Path, expected: dict[str, object], seed: int, root: pathlib.Path
) -> Damaged:
    """Copies a run, damages one of its files and gives the command of the run again.

    Args:
      state: how the outcome calls it.
      source: the folder of the run.
      expected: its results.
      seed: of the damage: all files and damages have their turn.
      root: for the copy.
    """
    names = files_of(source)
    name, draw = names[seed % len(names)], random.Random(f"{state} {seed}")
    damage = DAMAGES[seed // len(names) % len(DAMAGES)]
    folder = root / f"{state}_{seed:04d}"
    shutil.copytree(source, folder)
    path = folder / name
    path.write_bytes(damage(path.read_bytes(), draw))
    ended = run(folder)
    outcome = judge(folder, ended, expected)
    if outcome not in ("WRONG", "TRACEBACK"):
        shutil.rmtree(folder)
    return Damaged(state, name, damage.__name__, outcome, ended.errors.strip()[-300:])


def judge(folder: pathlib.Path, ended: Ended, expected: dict[str, object]) -> str:
    """The outcome, see ``Damaged``."""
    if "Traceback" in ended.errors or ended.status not in (0, 1, 2):
        return "TRACEBACK"
    if ended.status:
        lines = ended.errors.strip().splitlines()
        return "told" if lines and lines[-1].startswith(("error:", "failed:")) else "WRONG"
    found = results(folder)
    lost = [name for name in expected if found.get(name) != expected[name]]
    if not lost:
        return "same"
    if all(found.get(name) == REFUSED for name in lost):
        return "network refused when read"
    return "epochs lost, told" if _only_epochs_lost(lost, ended, found, expected) else "WRONG"


def _only_epochs_lost(
    lost: list[str], ended: Ended, found: dict[str, object], expected: dict[str, object]
) -> bool:
    """Whether nothing but epochs is missing, none is another, and the program says so."""
    if lost != ["metrics.jsonl"] or "metrics.jsonl" not in ended.errors:
        return False
    left, whole = found.get("metrics.jsonl", []), expected["metrics.jsonl"]
    return all(record in whole for record in left)  # type: ignore[attr-defined]
