"""Finished runs, found in folders and put together by their method."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bbo.files import parse_json, read_lines
from bbo.pipeline.finished import FinishedRun, read_run
from bbo.settings.catalog import REGULARISERS
from bbo.settings.method import NO_PART, repeated, settings_of_all
from bbo.settings.noise_section import NoiseConfig
from bbo.settings.pruning_sections import PruningConfig
from bbo.types import UsageError
from experiments.report import methods
from experiments.report.archive import is_study, read_study

PRUNING = [
    field.name
    for field in dataclasses.fields(PruningConfig)
    if field.name not in (*NO_PART, "recovery_images")
]
"""Settings of how a network is pruned, not where it is measured, nor how it is mended."""


class Found(NamedTuple):
    """All that folders hold."""

    runs: list[FinishedRun]
    left_out: dict[str, str]
    """Why a run is not among them, by its name."""
    places: list[tuple[pathlib.Path, str]]
    """Where they are, see ``places_in``."""


class Method(NamedTuple):
    """Runs of one method: they differ in nothing but their seed, and where they are measured."""

    method: str
    """The shortest text that tells it from the others on the same problem."""
    settings: dict[str, Any]
    """That make the method, by name; see ``method.settings_of``."""
    runs: list[FinishedRun]
    """By seed."""

    @property
    def problem(self) -> tuple[str, str, float]:
        """Dataset, network and width: methods are compared on the same ones."""
        return methods.problem_of(self.settings)


def find_runs(folders: Iterable[pathlib.Path]) -> Found:
    """Finished runs in folders, at any depth, and of studies there, in the order of their names.

    Left out, and told why: studies that are damaged, runs that are unfinished or damaged, those of
    a sweep that have not begun, and repetitions of method and seed, which would count as
    independent.

    Raises:
      UsageError: a folder that does not exist.
    """
    runs, left_out, places = [], {}, list(places_in(folders))
    for folder, name in places:
        try:
            runs += read_study(folder, name) if is_study(folder) else [read_run(folder, name)]
        except UsageError as error:
            left_out[name or folder.resolve().name] = str(error)
    repeated = _repeated(runs)
    return Found([run for run in runs if run.name not in repeated], left_out | repeated, places)


def places_in(folders: Iterable[pathlib.Path]) -> Iterator[tuple[pathlib.Path, str]]:
    """The folders of runs and of studies in folders, each once, and their names.

    That of a study goes before the names of its runs; it is empty for one that is the only folder.

    Raises:
      UsageError: a folder that does not exist.
    """
    roots, visited = list(folders), set()
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; name one that holds runs")
        for folder in _run_folders(root):
            if folder.resolve() in visited:  # one of the folders is within another
                continue
            visited.add(folder.resolve())
            name = (pathlib.Path(root.resolve().name) / folder.relative_to(root)).as_posix()
            yield folder, "" if is_study(folder) and roots == [folder] else name


def _repeated(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """What each run repeats that has the method and seed of one before it, by its name."""
    found = {}
    for index, number in repeated([run.config for run in runs]).items():
        run, earlier = runs[index], runs[number]
        here, there = (methods.points_text(one.config) for one in (run, earlier))
        measured = f"; measured at {here} here, at {there} there" if here != there else ""
        found[run.name] = f"the same settings and seed as {earlier.name}{measured}"
    return found


def _run_folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Folders that hold a study, a run or a part of one, or are to hold a run of a sweep."""
    found, possible = set(), set()
    for path, folders, files in os.walk(root):
        folder = pathlib.Path(path)
        if "config.json" in files or "curve.csv" in files:
            found.add(folder)
            folders.clear()  # what a run has below is its own
        if "summary.json" in files:
            possible.add(folder)
        if is_study(folder):
            found.add(folder)
        elif "runs.jsonl" in files:
            planned = len(read_lines(folder / "runs.jsonl"))
            possible |= {folder / f"{index:04d}" for index in range(planned)}
        folders[:] = [name for name in folders if not name.startswith(".")]
    # One that holds runs is that of several seeds in one program.
    above = {parent for folder in found for parent in folder.parents}
    return sorted(found | (possible - above))


def grouped(runs: Sequence[FinishedRun]) -> list[Method]:
    """Runs by their method: by problem, the unregularised first."""
    by_method: dict[str, list[FinishedRun]] = {}
    settings = settings_of_all(run.config for run in runs)
    for run, of_run in zip(runs, settings, strict=True):
        by_method.setdefault(json.dumps(of_run), []).append(run)
    found = [(parse_json(text), of_group) for text, of_group in by_method.items()]
    by_problem: dict[tuple, list[dict[str, Any]]] = {}
    for one, _ in found:
        by_problem.setdefault(methods.problem_of(one), []).append(one)
    groups = [
        Method(
            methods.label(one, by_problem[methods.problem_of(one)]),
            one,
            sorted(of_group, key=lambda run: run.config.train.seed),
        )
        for one, of_group in found
    ]
    return sorted(
        groups, key=lambda group: (group.problem, _rank(group.settings["noise"]), group.method)
    )


NAMES = "names.json"
"""In the folder of a study: from the text of a method to how it is to be called."""


def renamed(groups: Sequence[Method], folders: Iterable[pathlib.Path]) -> list[Method]:
    """Methods by the names that the folders give them.

    Args:
      groups: from ``grouped``.
      folders: of which some may have a ``names.json``.

    Raises:
      UsageError: one is not a file of names, names a method that is not there, or two alike.
    """
    names: dict[str, str] = {}
    for path in (folder / NAMES for folder in folders):
        if not path.exists():
            continue
        try:
            names |= {str(text): str(name) for text, name in parse_json(path.read_text()).items()}
        except (ValueError, AttributeError):
            raise UsageError(f"{path} is not a JSON object of names; mend or remove it") from None
    known = {group.method for group in groups}
    if strangers := sorted(names.keys() - known):
        there = "; ".join(sorted(known))
        raise UsageError(f"{NAMES}: no method is called {strangers[0]!r}; there are: {there}")
    if len({names.get(method, method) for method in known}) < len(known):
        raise UsageError(f"{NAMES}: two methods get the same name; each needs its own")
    return [group._replace(method=names.get(group.method, group.method)) for group in groups]


def _rank(noise: str) -> int:
    return list(REGULARISERS).index(noise)


def points_of(groups: Sequence[Method]) -> pd.DataFrame:
    """The table that ``statistics`` takes: a line for each pruning point of each run."""
    parts = []
    for group in groups:
        dataset, network, width = group.problem
        place = {"dataset": dataset, "network": network, "width": width, "method": group.method}
        place["baseline"] = baseline_of(group, groups)
        for run in group.runs:
            curve = run.curve.drop(columns="method", errors="ignore")
            # Points meet at shares that were asked for alike: 3 * 0.1 and 0.3 are one.
            curve["sparsity"] = curve["sparsity"].round(9)
            parts.append(curve.assign(**place, seed=run.config.train.seed))
    return pd.concat(parts, ignore_index=True)


def baseline_of(group: Method, groups: Iterable[Method]) -> str:
    """The best method without regulariser on the same problem, pruned in the same way.

    The best on validation images, mean over the seeds, with nothing removed or mended; of equals
    the one that is otherwise as ``group``. Where there are no validation images to choose by, the
    only one, or else that one. Empty if there is none.
    """
    rivals = [
        other
        for other in groups
        if (other.settings["noise"], other.problem) == ("none", group.problem)
        and all(other.settings[name] == group.settings[name] for name in PRUNING)
    ]
    scores = {other.method: _unpruned_validation(other) for other in rivals}
    alike = [other for other in rivals if _without_noise(other) == _without_noise(group)]
    known = [other for other in rivals if not np.isnan(scores[other.method])]
    chosen = known or (rivals if len(rivals) == 1 else alike)
    best = max(chosen, key=lambda other: (scores[other.method], other in alike), default=None)
    return best.method if best else ""


def _without_noise(group: Method) -> dict[str, Any]:
    noise = [field.name for field in dataclasses.fields(NoiseConfig)]
    other = (*noise, "recovery_images")  # those mend, and the baseline is not mended
    return {name: value for name, value in group.settings.items() if name not in other}


def _unpruned_validation(group: Method) -> float:
    """Mean accuracy on validation images, nothing removed or mended; NaN if it is not known."""
    values = [
        run.curve.query("sparsity == 0 and recovery == 'none'")["validation_top1"].mean()
        for run in group.runs
        if "validation_top1" in run.curve
    ]
    return float(pd.Series(values, dtype=float).mean())
