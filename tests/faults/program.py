"""Kills, damages and random settings, on real runs; minutes to an hour.

  python -m tests.faults --kills=100 --damages=100 --vectors=1000 --out=FOLDER

Kills: a fifth of them at any time, during saves, during the curve, of two seeds trained as one
program, and of pruning and training in turn; each run has to end as the one that was left in peace,
bit for bit. Damages: one file of a finished or an interrupted run is cut, zeroed or has a bit
flipped; the same command has to end with the same result, or to tell in a line what is wrong.
Vectors: random settings are refused in one line before anything is written, or work.

FOLDER gets faults.json, the tally with what it ran on, and faults.md. Exit status 1 if anything was
wrong; such runs are kept in the folder that is printed first.
"""

import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Iterable

import tqdm
from absl import flags

from bbo.files import write_text
from bbo.settings.provenance import environment
from bbo.types import UsageError
from tests.faults import damages, kills, vectors
from tests.faults.runs import results, run

GOOD = ("same", "told", "epochs lost, told", "network refused when read")
GOOD += ("refused", "worked", "failed in a line", "too long")

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " faults"}
for _name, _what in (
    ("kills", "kills, a fifth of each kind"),
    ("damages", "files to damage"),
    ("vectors", "vectors of random settings"),
):
    flags.DEFINE_integer(_name, 0, f"how many {_what}", lower_bound=0, **_PLACE)
flags.DEFINE_integer("seed", 0, "of all that is drawn", **_PLACE)
flags.DEFINE_integer("parallel", 2, "runs at a time", lower_bound=1, **_PLACE)
flags.DEFINE_string("out", None, "folder for the tally [default: it is only printed]", **_PLACE)


def main(values: flags.FlagValues) -> int:
    """Does what is asked for; 1 if anything was wrong."""
    kinds = {"kills": _kills, "damages": _damages, "vectors": _vectors}
    counts = {name: values[name].value for name in kinds}
    if not any(counts.values()):
        raise UsageError("nothing is asked for; give --kills, --damages or --vectors")
    root, seed = pathlib.Path(tempfile.mkdtemp(prefix="faults_")), values["seed"].value
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    print(f"Runs: {root}")
    record = {"command": " ".join(["python -m tests.faults", *sys.argv[1:]])}
    record |= {"environment": environment()}
    with concurrent.futures.ThreadPoolExecutor(values["parallel"].value) as pool:
        for name, do in kinds.items():
            if counts[name]:
                record[name] = do(pool, root / name, counts[name], seed)
    text = tally(record)
    print(text)
    if values["out"].value:
        out = pathlib.Path(values["out"].value)
        out.mkdir(parents=True, exist_ok=True)
        told = json.dumps(record, indent=1).replace(str(root), "RUNS")
        write_text(out / "faults.json", told + "\n")
        write_text(out / "faults.md", text)
        print(f"Records: {out}")
    return int("WRONG" in text)


def _kills(
    pool: concurrent.futures.Executor, root: pathlib.Path, count: int, seed: int
) -> list[dict[str, object]]:
    parts = {
        name: count // len(kills.KINDS) + (place < count % len(kills.KINDS))
        for place, name in enumerate(kills.KINDS)
    }

    def one_kind(name: str) -> list[kills.Killed]:
        folder = root / name.strip("-").replace(" ", "_")
        run(folder / "undisturbed", kills.KINDS[name].settings)  # compiles
        started = time.monotonic()
        run(folder / "again", kills.KINDS[name].settings)
        seconds = time.monotonic() - started
        expected, found = results(folder / "undisturbed"), []
        if results(folder / "again") != expected:
            raise RuntimeError(f"{folder}: two undisturbed runs are not the same")
        for ended in kills.killed_runs(name, parts[name], seed, seconds, expected, folder):
            found.append(ended)
            bar.update(ended.kills)
        return found

    with tqdm.tqdm(total=count, desc="kills") as bar:
        found = list(pool.map(one_kind, parts))
    return [ended._asdict() for ended in itertools.chain.from_iterable(found)]


def _damages(
    pool: concurrent.futures.Executor, root: pathlib.Path, count: int, seed: int
) -> list[dict[str, object]]:
    run(root / "finished")
    expected = results(root / "finished")
    run(root / "interrupted", kill_when=kills.during_the_curve(random.Random(seed), 0.0))
    places = [
        (state, seed + number)
        for number in range(count // 2 + count % 2)
        for state in ("finished", "interrupted")
    ][:count]

    def one(place: tuple[str, int]) -> damages.Damaged:
        state, number = place
        return damages.damaged_run(state, root / state, expected, number, root)

    return [x._asdict() for x in tqdm.tqdm(pool.map(one, places), "damages", count)]


def _vectors(
    pool: concurrent.futures.Executor, root: pathlib.Path, count: int, seed: int
) -> list[dict[str, object]]:
    drawn = vectors.drawn(count, seed)
    folders = [root / f"{number:05d}" for number in range(len(drawn))]
    found = pool.map(vectors.try_vector, drawn, folders)
    return [x._asdict() for x in tqdm.tqdm(found, "vectors", len(drawn))]


def tally(record: dict[str, object]) -> str:
    """The tally as tables in Markdown."""
    lines = [f"`{record['command']}`", ""]
    killed, damaged, tried = (record.get(name, []) for name in ("kills", "damages", "vectors"))
    if killed:
        lines += ["## Kills", ""]
        lines += ["| kills | number | runs | ended bit for bit the same |", "|---|---|---|---|"]
        for kind, items in _by(killed, "kind"):
            number, same = (sum(item[name] for item in items) for name in ("kills", "same"))
            wrong = "" if same == len(items) else f", {len(items) - same} WRONG"
            lines += [f"| {kind} | {number} | {len(items)} | {same}{wrong} |"]
        lines += [""]
    damaged = [item | {"kind": f"{_kind(item['file'])}, {item['state']}"} for item in damaged]
    for heading, what, items, key in (
        ("Damaged files", "file, run", damaged, "kind"),
        ("Random settings", "settings", tried, "outcome"),
    ):
        if items:
            lines += [f"## {heading}", ""]
            lines += [f"| {what} | number | outcome |", "|---|---|---|"]
            for name, group in _by(items, key):
                outcomes = collections.Counter(_told(item["outcome"]) for item in group)
                told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
                lines += [f"| {name} | {len(group)} | {told} |"]
            lines += [""]
    return "\n".join(lines)


def _kind(file: str) -> str:
    """Of a checkpoint, which has tens of files, or the name itself."""
    return "of a checkpoint" if file.startswith("checkpoints/") else file


def _told(outcome: str) -> str:
    return outcome if outcome in GOOD else f"{outcome} (WRONG)"


def _by(items: Iterable[dict], key: str) -> list[tuple[str, list[dict]]]:
    groups = collections.defaultdict(list)
    for item in items:
        groups[str(item[key])].append(item)
    return sorted(groups.items())
