"""Runs that are killed, again and again, and must end as the run that was left in peace."""

import pathlib
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.faults.runs import SHORT, results, run

PER_RUN = 5
"""How often one run is killed, at most."""
Rule = Callable[[pathlib.Path, float], bool]
"""Whether to kill now, given the folder and the seconds since the start."""


class Kind(NamedTuple):
    """Where runs are killed."""

    settings: tuple[str, ...]
    rule: Callable[[random.Random, float], Rule]
    """Draws a moment, given the seconds that the undisturbed run takes."""


class Killed(NamedTuple):
    """One run that was killed some times."""

    kind: str
    kills: int
    same: bool
    """Whether it ended as the undisturbed one, bit for bit."""
    told: str
    """The end of what it said, if it did not."""


def at_any_time(draw: random.Random, seconds: float) -> Rule:
    """Uniform over the run, its start included."""
    moment = draw.uniform(0, seconds)
    return lambda folder, elapsed: elapsed > moment


def during_a_save(draw: random.Random, seconds: float) -> Rule:
    """While a checkpoint is being written, which another name tells until it is complete."""
    del seconds
    skipped, seen = draw.randrange(4), set[str]()

    def rule(folder: pathlib.Path, elapsed: float) -> bool:
        del elapsed
        seen.update(str(path) for path in folder.glob("checkpoints/*tmp*"))
        return len(seen) > skipped

    return rule


def during_the_curve(draw: random.Random, seconds: float) -> Rule:
    """After some of its points, more at each start, as those found are not measured again."""
    del seconds
    more = draw.randrange(1, 4)
    first: list[int] = []

    def rule(folder: pathlib.Path, elapsed: float) -> bool:
        del elapsed
        path = folder / "curve.jsonl"
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        first.extend([lines] * (not first))
        return path.exists() and lines >= first[0] + more

    return rule


def between_members(draw: random.Random, seconds: float) -> Rule:
    """When one of two members has a checkpoint that the other has not, or at any time."""
    if draw.random() < 0.5:
        return at_any_time(draw, seconds)
    skipped, seen = draw.randrange(3), set[tuple[int, ...]]()

    def rule(folder: pathlib.Path, elapsed: float) -> bool:
        del elapsed
        newest = [
            max((int(path.name) for path in member.iterdir() if path.name.isdigit()), default=0)
            for member in folder.glob("seed_*/checkpoints")
        ]
        if len({*newest, *([0] if len(newest) == 1 else [])}) > 1:
            seen.add(tuple(newest))
        return len(seen) > skipped

    return rule


KINDS = {
    "at any time": Kind(SHORT, at_any_time),
    "during a save": Kind(SHORT, during_a_save),
    "during the curve": Kind(SHORT, during_the_curve),
    "--vmap_seeds": Kind((*SHORT, "--vmap_seeds=2"), between_members),
    "--prune_iterations": Kind(
        (*SHORT, "--granularity=filter", "--sparsities=0", "--prune_iterations=3", "--prune_to=0.7")
        + ("--retrain_epochs=1",),
        at_any_time,
    ),
}


def killed_runs(
    name: str, count: int, seed: int, seconds: float, expected: object, root: pathlib.Path
) -> Iterator[Killed]:
    """Kills runs of one kind until there have been ``count`` kills.

    Args:
      name: of the kind.
      count: of kills.
      seed: of the moments.
      seconds: that the undisturbed run takes.
      expected: its results.
      root: for the folders of the runs.
    """
    kind, draw, left = KINDS[name], random.Random(f"{name} {seed}"), count
    for number in range(20 * count):
        folder, kills = root / f"{number:04d}", 0
        while kills < min(PER_RUN, left):
            if run(folder, kind.settings, kill_when=kind.rule(draw, seconds)).status != -9:
                break  # it came to its end first
            kills += 1
        ended = run(folder, kind.settings)
        same = ended.status == 0 and results(folder) == expected
        left -= kills
        yield Killed(name, kills, same, "" if same else ended.errors[-300:])
        if not left:
            return
    raise RuntimeError(f"runs of the kind {name!r} end before they can be killed")
