"""The tables of a comparison, in Markdown: accuracies, differences and what they come to."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from bbo.pipeline.curve_file import failures, percent, recovery_text, shortfalls
from experiments.report import methods
from experiments.report.finished_runs import Method
from experiments.report.statistics import MARGINS, rows_of, split, where

SUMMARY = {
    "top1_at_0": "test accuracy, nothing removed (%)",
    "mean_top1_to_60": "mean test accuracy, 0 to 60 % removed (%)",
    "mean_validation_top1_to_60": "mean validation accuracy, 0 to 60 % removed (%)",
    "within_1": "largest sparsity within 1 point of the baseline (not pruned, not mended)",
    "within_5": "largest sparsity within 5 points of the baseline",
    "class_loss_at_50": "largest loss of a class, 50 % removed (points)",
    "ece_at_0": "calibration error (ECE), nothing removed",
    "ece_at_50": "ECE, 50 % removed",
    "loss_at_0": "negative log-likelihood (NLL), nothing removed",
    "loss_at_50": "NLL, 50 % removed",
}
"""Headings of the numbers of ``statistics.summary``."""
WORST = 2
"""So many classes are shown of each curve."""
MANY_PAIRS = 3
"""Of more than so many pairs of methods, only those with the baseline are shown."""


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table with the keys of the first row as headings; all rows have the same.

    >>> print(markdown([{"method": "none", "ECE": "0.1"}]))
    | method | ECE |
    |---|---|
    | none | 0.1 |
    """
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    texts = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(lines[0]), *texts[1:]])


def deviation_text(row: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """A mean with its deviation and the number of runs; a dash if there is none.

    >>> deviation_text({"mean": 0.98765, "std": 0.0012, "n": 3})
    '98.8 ± 0.1 (3)'
    >>> deviation_text({"mean": 0.5, "std": math.nan, "n": 1}, scale=1, digits=3)
    '0.500 (1)'
    """
    if math.isnan(row["mean"]):
        return "-"
    spread = "" if math.isnan(row["std"]) else f" ± {scale * row['std']:.{digits}f}"
    return f"{scale * row['mean']:.{digits}f}{spread} ({row['n']})"


def interval_text(row: dict[str, Any]) -> str:
    """A difference in points with its interval and the number of pairs; a dash if there is none.

    >>> interval_text({"mean": 0.05, "low": 0.01, "high": 0.09, "n": 3})
    '+5.0 [+1.0, +9.0] (3)'
    """
    if math.isnan(row["mean"]):
        return "-"
    limits = f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]" if row["n"] > 1 else ""
    return f"{100 * row['mean']:+.1f}{limits} ({row['n']})"


def accuracy_table(statistics: pd.DataFrame) -> str:
    """Test accuracy: a line per recovery and method, a column per sparsity.

    Args:
      statistics: of one problem and granularity, from ``statistics.curve_statistics``.
    """
    return _by_sparsity(statistics, ["method"], deviation_text)


def difference_table(
    differences: pd.DataFrame, baselines: Iterable[str], *, most: int = MANY_PAIRS
) -> str:
    """Differences of test accuracy: a line per recovery and pair, a column per sparsity.

    Args:
      differences: of one problem and granularity, from ``statistics.paired_differences``.
      baselines: the methods without regulariser; of many pairs, only theirs are shown.
      most: so many are not many.
    """
    pairs = set(zip(differences["method"], differences["reference"], strict=True))
    known = set(baselines) & {reference for _, reference in pairs}
    if len(pairs) > most and known:
        differences = pd.concat([where(differences, reference=name) for name in sorted(known)])
    return _by_sparsity(differences, ["method", "reference"], interval_text)


def gain_table(gains: pd.DataFrame) -> str:
    """What recovery adds to the test accuracy: a line per recovery and method.

    Args:
      gains: of one problem and granularity, from ``statistics.recovery_gains``.
    """
    return _by_sparsity(gains, ["method"], interval_text)


def _by_sparsity(
    table: pd.DataFrame, names: Sequence[str], text: Callable[[dict[str, Any]], str]
) -> str:
    """Test accuracies: the columns ``names`` (less each other), the recovery, the sparsities."""
    chosen = where(table, measure="test_top1")
    headings = [percent(sparsity) for sparsity in sorted(set(chosen["sparsity"]))]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for _, part in split(chosen, ["recovery"]):
        for line in rows_of(part):
            curve = " − ".join(line[name] for name in names)
            recovery = recovery_text(line["recovery"])
            start = {" − ".join(names): curve, "recovery": recovery} | dict.fromkeys(headings, "-")
            row = rows.setdefault((curve, recovery), start)
            row[percent(line["sparsity"])] = text(line)
    return markdown(list(rows.values()))


def summary_table(summary: pd.DataFrame) -> str:
    """What each curve comes to, a line each.

    Args:
      summary: of one problem and granularity, from ``statistics.summary``.
    """
    rows = []
    for place, curve in split(summary, ["method", "recovery"]):
        found = {row["number"]: row for row in rows_of(curve)}
        row = {"method": place["method"], "recovery": recovery_text(place["recovery"])}
        for number, heading in SUMMARY.items():
            row[heading] = _number_text(number, found[number])
        rows.append(row)
    return markdown(rows)


def _number_text(number: str, row: dict[str, Any]) -> str:
    if number in MARGINS:
        return "-" if math.isnan(row["mean"]) else percent(row["mean"])
    is_error = number.startswith(("ece", "loss"))
    return deviation_text(row, scale=1, digits=3) if is_error else deviation_text(row)


def class_table(losses: pd.DataFrame) -> str:
    """The classes that lose most, by their mean loss: a line per method and recovery.

    Args:
      losses: of one problem and granularity, from ``statistics.class_losses``; not empty.
    """
    rows = []
    for place, curve in split(losses, ["method", "recovery"]):
        worst = curve.sort_values("mean", ascending=False, kind="stable").head(WORST)
        cells = [f"class {line['class']}: {interval_text(line)}" for line in rows_of(worst)]
        cells += ["-"] * (WORST - len(cells))
        recovery = recovery_text(place["recovery"])
        row = {"method": place["method"], "recovery": recovery}
        rows.append(row | {"loses most": cells[0], "the next": cells[1]})
    return markdown(rows)


def methods_table(groups: Sequence[Method]) -> str:
    """What the methods of one problem are: seeds, and all the settings that are not alike."""
    names = methods.differing([group.settings for group in groups])
    rows = [
        {
            "method": group.method,
            "seeds": ", ".join(str(run.config.train.seed) for run in group.runs),
            "settings that differ": methods.text_of(
                {name: group.settings[name] for name in names if group.settings[name] != ""},
                [other.settings for other in groups],
            )
            or "-",
        }
        for group in groups
    ]
    return markdown(rows)


def failure_lines(groups: Sequence[Method]) -> list[str]:
    """Every pruning point that failed, and why."""
    return [
        f"{group.method}, seed {run.config.train.seed}, {failure}"
        for group in groups
        for run in group.runs
        for failure in failures(run.curve)
    ]


def shortfall_lines(groups: Sequence[Method], granularity: str) -> list[str]:
    """Where less was removed of the networks of a method than asked for, see ``shortfalls``."""
    return [
        f"{group.method}, {line}"
        for group in groups
        for line in shortfalls(
            where(pd.concat([run.curve for run in group.runs]), granularity=granularity)
        )
    ]


def environment_lines(groups: Sequence[Method]) -> list[str]:
    """What the runs ran on, each once."""
    found = {}
    for group in groups:
        for run in group.runs:
            for item in run.environments:
                versions = item.get("versions", {})
                text = f"{item.get('device')} ({item.get('platform')}), jax {versions.get('jax')}"
                text += f", {item['processor']}" if item.get("processor") else ""
                flags = f", XLA_FLAGS {item['xla_flags']}" if item.get("xla_flags") else ""
                changed = "".join(f", {k}={v}" for k, v in item.get("jax_settings", {}).items())
                found[f"{text}, commit {item.get('commit')}{flags}{changed}"] = None
    return sorted(found)
