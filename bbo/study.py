"""Finished runs, found in folders, put together by their settings, and named by what differs."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bbo import config as configs
from bbo import report
from bbo import workdir as workdirs
from bbo.catalog import REGULARISERS
from bbo.config import ExperimentConfig, NoiseConfig
from bbo.types import UsageError

RECORDS = ("config.json", "curve.csv", "summary.json")
"""What a finished run has."""
LEADING = ("noise", "dataset", "model")
"""Settings that are named by their value alone, and before the others."""
_TARGETED, _MAPS = ("target_fraction", "target_unit"), ("activation_target_fraction",)
USED = {
    "none": (),
    "batch_bridgeout": ("rate", "q", *_TARGETED, "noise_on"),
    "bridgeout": ("rate", "q", "noise_on"),
    "group_bridgeout": ("rate", "q", "noise_on"),
    "dropconnect": ("rate", "noise_on"),
    "dropout": ("rate", *_MAPS),
    "sparseout": ("rate", "q", *_MAPS),
    "targeted_dropout": ("rate", *_TARGETED, "noise_on"),
    "shakeout": ("rate", "shakeout_c", "noise_on"),
}
"""The settings of noise that have an effect, by regulariser; see ``noise.create_regulariser``."""
NEEDED = {"granularity", "recovery", "sparsity", "test_top1"}
"""Columns of a curve without which nothing can be compared."""


class FinishedRun(NamedTuple):
    """A run, read from its folder."""

    name: str
    """Where it is, below the folder that was searched: ``digits/0003``."""
    config: ExperimentConfig
    curve: pd.DataFrame
    environments: list[dict[str, Any]]
    """What it ran on, see ``workdir.environment``."""


class Found(NamedTuple):
    """All that folders hold."""

    runs: list[FinishedRun]
    left_out: dict[str, str]
    """Why a run is not among them, by its name."""


class Group(NamedTuple):
    """Runs that differ in nothing but their seed."""

    method: str
    """The shortest text that tells it from the others on the same problem."""
    settings: dict[str, Any]
    """By name, without the seed and what has no effect."""
    runs: list[FinishedRun]
    """By seed."""

    @property
    def problem(self) -> tuple[str, str, float]:
        """Dataset, network and width: methods are compared on the same ones."""
        return problem_of(self.settings)


def problem_of(settings: dict[str, Any]) -> tuple[str, str, float]:
    """Dataset, network and width."""
    return settings["dataset"], settings["model"], settings["width"]


def find_runs(folders: Iterable[pathlib.Path]) -> Found:
    """The finished runs in folders, at any depth, in the order of their names.

    Left out, and told why: runs that are unfinished or damaged, those of a sweep that have not
    begun, and repetitions of settings and seed, which would count as independent.

    Raises:
      UsageError: a folder that does not exist.
    """
    runs, left_out, visited, first = [], {}, set(), {}
    for root in folders:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; name one that holds runs")
        for folder in _run_folders(root):
            if folder.resolve() in visited:  # one of the folders is within another
                continue
            visited.add(folder.resolve())
            name = (pathlib.Path(root.resolve().name) / folder.relative_to(root)).as_posix()
            try:
                run = read_run(folder, name)
            except UsageError as error:
                left_out[name] = str(error)
                continue
            identity = json.dumps([settings_of(run.config), run.config.train.seed])
            if identity in first:
                left_out[name] = f"the same settings and seed as {first[identity]}"
            else:
                first[identity] = name
                runs.append(run)
    return Found(runs, left_out)


def _run_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Folders that hold a run or a part of one, or are to hold a run of a sweep."""
    found, possible = set(), set()
    for path, folders, files in os.walk(root):
        folder = pathlib.Path(path)
        if "config.json" in files or "curve.csv" in files:
            found.add(folder)
            folders.clear()  # what a run has below is its own
        if "summary.json" in files:
            possible.add(folder)
        if "runs.jsonl" in files:
            planned = len(workdirs.read_lines(folder / "runs.jsonl"))
            possible |= {folder / f"{index:04d}" for index in range(planned)}
        folders[:] = [name for name in folders if not name.startswith(".")]
    # One that holds runs is that of several seeds in one program.
    above = {parent for folder in found for parent in folder.parents}
    return sorted(found | (possible - above))


def read_run(folder: pathlib.Path, name: str) -> FinishedRun:
    """Reads the records of a finished run.

    Raises:
      UsageError: it is unfinished or damaged; the message says in what way.
    """
    missing = [record for record in RECORDS if not (folder / record).is_file()]
    if len(missing) == len(RECORDS):
        raise UsageError("not started")
    if missing:
        raise UsageError(f"unfinished: no {' and no '.join(missing)}")
    reading = ""
    try:
        reading = "summary.json"
        json.loads((folder / reading).read_text(encoding="utf-8"))
        reading = "config.json"
        record = json.loads((folder / reading).read_text(encoding="utf-8"))
        config = configs.from_json(record["config"])
        environments = [dict(item) for item in record.get("environments", [])]
        reading = "curve.csv"
        curve = report.read_curve(folder / reading)
        if lacking := sorted(NEEDED - set(curve.columns)):
            raise ValueError(f"no column {', '.join(lacking)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"damaged: {reading} cannot be read ({reason})") from None
    # An empty column is read as one of numbers.
    texts = curve["error"] if "error" in curve else [""] * len(curve)
    curve["error"] = [text if isinstance(text, str) else "" for text in texts]
    return FinishedRun(name, config, curve, environments)


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """All settings by name, but for the seed and the places of data; without effect: None."""
    used = ("noise", *USED[config.noise.noise])
    sections = configs.to_json(config)
    sections["noise"] = {
        name: value if name in used else None for name, value in sections["noise"].items()
    }
    flat = {name: value for section in sections.values() for name, value in section.items()}
    return {name: value for name, value in flat.items() if name not in ("seed", *workdirs.PLACES)}


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """Runs by all settings but the seed: by problem, the unregularised first."""
    by_settings: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(settings_of(run.config)), []).append(run)
    found = [(json.loads(text), of_group) for text, of_group in by_settings.items()]
    by_problem: dict[tuple, list[dict[str, Any]]] = {}
    for settings, _ in found:
        by_problem.setdefault(problem_of(settings), []).append(settings)
    groups = [
        Group(
            label(settings, by_problem[problem_of(settings)]),
            settings,
            sorted(of_group, key=lambda run: run.config.train.seed),
        )
        for settings, of_group in found
    ]
    return sorted(
        groups, key=lambda group: (group.problem, _rank(group.settings["noise"]), group.method)
    )


def _rank(noise: str) -> int:
    return REGULARISERS.index(noise)


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the settings that are not alike in all."""
    names = [*LEADING, *(name for name in settings[0] if name not in LEADING)]
    return [name for name in names if any(one[name] != settings[0][name] for one in settings)]


def label(settings: dict[str, Any], among: Sequence[dict[str, Any]]) -> str:
    """The shortest text that tells settings from the others in ``among``.

    The regulariser is part of it if there are several; alone, it is all of it.

    >>> first = {"noise": "dropout", "dataset": "digits", "model": "small_cnn", "rate": 0.1}
    >>> others = [first | {"rate": 0.2}, first | {"noise": "none"}]
    >>> [label(one, [first, *others]) for one in (first, *others)]
    ['dropout rate=0.1', 'dropout rate=0.2', 'none']
    """
    names = differing(among)
    if not names:
        return settings["noise"]
    fixed = [name for name in names if name == "noise"]
    free = [name for name in names if name != "noise"]
    for size in range(len(free) + 1):
        texts = [
            text_of({name: settings[name] for name in (*fixed, *chosen)})
            for chosen in itertools.combinations(free, size)
            if (fixed or chosen) and _is_alone(settings, among, (*fixed, *chosen))
        ]
        if texts:
            return min(texts, key=len)  # the first of equals
    raise ValueError("the settings are there twice")


def _is_alone(
    settings: dict[str, Any], among: Sequence[dict[str, Any]], names: Sequence[str]
) -> bool:
    alike = [one for one in among if all(one[name] == settings[name] for name in names)]
    return alike == [settings]


def text_of(settings: dict[str, Any]) -> str:
    """Settings in a few words, but for those without effect (None).

    >>> text_of({"noise": "dropout", "rate": 0.1, "granularity": ["filter", "weight"]})
    'dropout rate=0.1 granularity=filter,weight'
    """
    return " ".join(
        _value(value) if name in LEADING else f"{name}={_value(value)}"
        for name, value in settings.items()
        if value is not None
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def points_of(groups: Sequence[Group]) -> pd.DataFrame:
    """The table that ``bbo.comparison`` takes: a line for each pruning point of each run."""
    parts = []
    for group in groups:
        dataset, network, width = group.problem
        place = {"dataset": dataset, "network": network, "width": width, "method": group.method}
        place["baseline"] = baseline_of(group, groups)
        for run in group.runs:
            curve = run.curve.drop(columns="method", errors="ignore")
            parts.append(curve.assign(**place, seed=run.config.train.seed))
    return pd.concat(parts, ignore_index=True)


def baseline_of(group: Group, groups: Iterable[Group]) -> str:
    """The method without regulariser that is otherwise as ``group``; empty if there is none."""
    noise = [field.name for field in dataclasses.fields(NoiseConfig)]
    wanted = {name: value for name, value in group.settings.items() if name not in noise}
    for other in groups:
        rest = {name: value for name, value in other.settings.items() if name not in noise}
        if other.settings["noise"] == "none" and rest == wanted:
            return other.method
    return ""
