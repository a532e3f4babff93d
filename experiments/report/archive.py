"""A study in three tables: its runs, their pruning points and their epochs.

``runs.jsonl`` has a line for each run: its name, how many points and epochs it has, its settings,
environments and summary. ``points.csv`` holds the lines of every ``curve.csv`` and ``epochs.csv``,
if there are any, those of every ``metrics.jsonl``, after the name of the run. A cell is one value,
as the run wrote it: each class has a column, ``test_class_top1_0`` and so on, ``nan`` if it has no
images. An empty cell is no value: the point failed, or the run has no such column.
"""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bbo.files import parse_json, read_lines, write_text
from bbo.pipeline.finished import NEEDED, FinishedRun
from bbo.settings.config import from_json
from bbo.settings.sections import DataConfig
from bbo.settings.workdir import PLACES
from bbo.types import UsageError

RUNS, POINTS, EPOCHS = "runs.jsonl", "points.csv", "epochs.csv"
_CLASSES = "_class_top1"  # ends the names of columns of curve.csv that join the classes
_NUMBERS = ("validation_", "test_", *(NEEDED - {"granularity", "recovery"}))  # begin their names


class Record(NamedTuple):
    """A run as its files tell it, cells as they were written."""

    line: dict[str, Any]  # of runs.jsonl
    points: list[dict[str, str]]
    epochs: list[dict[str, Any]]


def is_study(folder: pathlib.Path) -> bool:
    """Whether a folder holds a study. That of a sweep has a ``runs.jsonl`` as well, no points."""
    return (folder / RUNS).is_file() and (folder / POINTS).is_file()


def read_study(folder: pathlib.Path, below: str = "") -> list[FinishedRun]:
    """The runs of a study, as ``finished.read_run`` reads them, with ``below`` before their names.

    Raises:
      UsageError: the study is damaged; the message says in what way.
    """
    return [_finished(record) for record in _study_records(folder, below)]


def records_at(folder: pathlib.Path, name: str, wanted: Collection[str]) -> list[Record]:
    """Of a study (``name`` goes before those of its runs) or one finished run: those wanted.

    Raises:
      UsageError: the study is damaged, or a part of the run that a report does not need.
    """
    if is_study(folder):
        return [one for one in _study_records(folder, name) if one.line["name"] in wanted]
    return [_run_record(folder, name)] if name in wanted else []


def write_study(folder: pathlib.Path, records: Sequence[Record]) -> list[pathlib.Path]:
    """Writes the tables of a study, each whole or not at all, and gives their paths.

    A study that is there keeps its runs, and gets those that it does not hold behind them.

    Raises:
      UsageError: two runs have one name, the study holds another run of the same name, or the
        folder is that of a run or a sweep.
      OSError: the folder cannot be written.
    """
    found = {record.line["name"]: record for record in records}
    if len(found) < len(records):
        raise UsageError("several runs have one name; give the one folder that all of them are in")
    held = {one.line["name"]: one for one in _study_records(folder)} if is_study(folder) else {}
    for name in held.keys() & found.keys():
        if json.dumps(held[name].line) != json.dumps(found[name].line):
            raise UsageError(
                f"archive {folder} holds another run {name}; name another folder for the archive, "
                "or call that of these runs otherwise"
            )
    records = [*held.values(), *(found[name] for name in found if name not in held)]
    if not is_study(folder) and any((folder / file).exists() for file in (RUNS, "config.json")):
        raise UsageError(f"archive {folder} is the folder of a sweep or a run; name another")
    folder.mkdir(parents=True, exist_ok=True)
    rows_of = {
        POINTS: [{"run": run.line["name"], **row} for run in records for row in run.points],
        EPOCHS: [{"run": run.line["name"], **row} for run in records for row in run.epochs],
    }
    tables = {folder / file: _csv_text(rows) for file, rows in rows_of.items() if rows}
    lines = [json.dumps(record.line) + "\n" for record in records]
    tables[folder / RUNS] = "".join(lines)  # last: now a study
    for path, text in tables.items():
        write_text(path, text)
    return list(tables)


def _run_record(folder: pathlib.Path, name: str) -> Record:
    """Of a run that ``finished.read_run`` has read; UsageError if the rest of it is damaged."""
    files = (folder / "config.json", folder / "summary.json")
    record, summary = (parse_json(file.read_text("utf-8")) for file in files)
    reading = "curve.csv"
    try:
        curve = io.StringIO((folder / reading).read_bytes().decode(), newline="")
        points = [_apart(row) for row in csv.DictReader(curve, restval="")]
        reading = "metrics.jsonl"
        epochs = [dict(epoch) for epoch in read_lines(folder / reading, strict=True)]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UsageError(f"{name} is damaged: {reading} cannot be read ({error})") from None
    counts = {"points": len(points), "epochs": len(epochs)}
    for place in PLACES:  # where images lay on that machine is nobody else's business
        if place in record["config"].get("data", {}):
            record["config"]["data"][place] = getattr(DataConfig(), place)
    return Record({"name": name, **counts, **record, "summary": summary}, points, epochs)


def _study_records(folder: pathlib.Path, below: str = "") -> list[Record]:
    """Of all runs of a study; UsageError if it is damaged."""
    reading = RUNS
    try:
        lines = [parse_json(line) for line in (folder / RUNS).read_text("utf-8").splitlines()]
        if len({line["name"] for line in lines}) < len(lines):
            raise ValueError("two lines have one name")
        rows_of = []
        for reading, kind in ((POINTS, "points"), (EPOCHS, "epochs")):
            counts = {line["name"]: line[kind] for line in lines}
            rows_of.append(_rows_by_run(folder / reading, counts).values())
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"damaged: {folder / reading} cannot be read ({error})") from None
    for line in lines:
        line["name"] = str(pathlib.PurePosixPath(below, line["name"]))
    return [Record(*parts) for parts in zip(lines, *rows_of, strict=True)]


def _rows_by_run(path: pathlib.Path, counts: Mapping[str, int]) -> dict[str, list[dict[str, str]]]:
    """The lines of a table, by run; ValueError if they are not whole, and as many as ``counts``."""
    rows_of: dict[str, list[dict[str, str]]] = {name: [] for name in counts}
    # There is no table of what none of the runs has recorded.
    text = path.read_bytes().decode() if any(counts.values()) or path.exists() else "run\n"
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has more or fewer cells than the first")
        if (name := row.pop("run", None)) not in rows_of:
            raise ValueError(f"line {reader.line_num} is of run {name}, which {RUNS} has not")
        rows_of[name].append(row)
    if {run: len(rows) for run, rows in rows_of.items()} != counts or not text.endswith("\n"):
        raise ValueError("it is cut: lines are missing, or the end of the last")
    return rows_of


def _finished(record: Record) -> FinishedRun:
    """A run of a study; UsageError if it cannot be calculated with."""
    name, points = record.line["name"], record.points
    try:
        config = from_json(record.line["config"])
        environments = [dict(item) for item in record.line.get("environments", [])]
        for column, cell in (item for row in points for item in row.items()):
            if column.startswith(_NUMBERS):
                float(cell or "nan")
        # Through the text of its curve.csv: of each run alone are known the types of its columns.
        text = io.StringIO(_csv_text([_joined(row) for row in points]))
        curve = pd.read_csv(text, keep_default_na=False, na_values=[""])
        if lacking := sorted(NEEDED - set(curve.columns)):
            raise ValueError(f"{POINTS} has no column {', '.join(lacking)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"damaged: {name} cannot be read ({error})") from None
    curve["error"] = [row.get("error", "") for row in points]
    return FinishedRun(name, config, curve, environments)


def _apart(row: Mapping[str, str]) -> dict[str, str]:
    """A line of ``curve.csv`` with a cell for each class.

    >>> _apart({"test_class_top1": "1;;0.5", "error": ""})
    {'test_class_top1_0': '1', 'test_class_top1_1': 'nan', 'test_class_top1_2': '0.5', 'error': ''}
    """
    cells = {}
    for column, cell in row.items():
        if not column.endswith(_CLASSES):
            cells[column] = cell
        elif cell:
            cells |= {f"{column}_{i}": x or "nan" for i, x in enumerate(cell.split(";"))}
    return cells


def _joined(row: Mapping[str, str]) -> dict[str, str]:
    """The inverse of ``_apart``.

    >>> _joined({"test_class_top1_0": "1", "test_class_top1_1": "nan", "error": ""})
    {'test_class_top1': '1;', 'error': ''}
    """
    cells, parts = {}, collections.defaultdict(list)
    for column, cell in row.items():
        name, of_class, _ = column.partition(_CLASSES + "_")
        parts[name] += [cell.replace("nan", "")] if of_class and cell else []
        cells |= {name + _CLASSES: ";".join(parts[name])} if of_class else {column: cell}
    return cells


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """All columns that any of the rows has, in the order in which they appear."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
