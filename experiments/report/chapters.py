"""What a summary says of one problem, and before all of them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from bbo.pipeline.curve_file import exact_text
from experiments.report import statistics, tables
from experiments.report.finished_runs import Found, Method, baseline_of

WORST_CLASSES = (
    "### Classes that lose most test accuracy with 50 % of the filters removed, in points "
    "[95 % interval] (networks)"
)
CHOSEN_AFTERWARDS = (
    "They are chosen by these very numbers: their means are too large and their intervals too "
    "narrow. All classes are in classes.csv."
)
BEST = "At each sparsity the recovery whose mean accuracy on validation images is highest."
SHORT = "Here, and in all tables, a column is the share that was asked for. Less was removed of:"
SOME_PAIRS = 10
"""Of methods; so many have their differences shown where each has its best recovery."""


def opening(found: Found, groups: Sequence[Method]) -> str:
    """What was read and how to read it."""
    parts = [
        "# Comparison of runs",
        f"{len(found.runs)} finished runs. Cells are the mean ± the standard deviation of the "
        "sample (number of runs). Intervals are 95 % confidence intervals of the mean, by "
        "Student's t: with few runs they are wide. A dash: there is no such number.",
        "Made on:",
        "\n".join(f"* {line}" for line in tables.environment_lines(groups)),
        *left_out(found),
    ]
    return "\n\n".join(parts)


def left_out(found: Found) -> list[str]:
    """Paragraphs: which runs were left out, and why; none if none was."""
    lines = [f"* {name}: {reason}" for name, reason in found.left_out.items()]
    return ["Left out:", "\n".join(lines)] if lines else []


def problem_text(group: Method) -> str:
    """What methods are compared on: ``vgg16 of width 0.125 on cifar10``."""
    dataset, network, width = group.problem
    return f"{network}{'' if width == 1 else f' of width {exact_text(width)}'} on {dataset}"


def chapter(groups: Sequence[Method], found: Mapping[str, pd.DataFrame]) -> str:
    """All tables of one problem, of the statistics ``found`` for it by ``write_report``."""
    parts = [f"## {problem_text(groups[0])}", tables.methods_table(groups)]
    if failed := tables.failure_lines(groups):
        parts += ["Pruning points that failed:", "\n".join(f"* {line}" for line in failed)]
    baselines = sorted({baseline_of(group, groups) for group in groups} - {""})
    parts += [baseline_text(baselines)]
    names = ("curves", "differences", "gains", "classes", "summary", "best", "best_differences")
    for granularity in found["curves"]["granularity"].unique():
        of_curves, of_differences, of_gains, of_classes, of_summary, *best = (
            statistics.where(found[name], granularity=granularity) for name in names
        )
        removed = f"{granularity}s removed"
        parts += [f"### Summary: {removed}", tables.summary_table(of_summary)]
        if granularity == "filter" and len(of_classes):
            parts += [WORST_CLASSES, tables.class_table(of_classes), CHOSEN_AFTERWARDS]
        parts += [f"### Test accuracy (%): {removed}", tables.accuracy_table(of_curves)]
        if short := tables.shortfall_lines(groups, granularity):
            parts += [SHORT, "\n".join(f"* {line}" for line in short)]
        if len(of_differences):
            parts += [
                f"### Differences of test accuracy, in points [95 % interval] (pairs): {removed}",
                tables.difference_table(of_differences, baselines),
            ]
        if len(of_gains):
            parts += [
                "### Test accuracy gained by recovery, in points [95 % interval] (networks): "
                + removed,
                tables.gain_table(of_gains),
            ]
        parts += best_parts(*best, removed, baselines)
    return "\n\n".join(parts)


def best_parts(
    best: pd.DataFrame, differences: pd.DataFrame, removed: str, baselines: Sequence[str]
) -> list[str]:
    """The tables of what each method reaches with its own best recovery; none if none is known."""
    if not len(best):
        return []
    what = f"each method with its best recovery: {removed}"
    parts = [f"### Test accuracy (%), {what}", tables.accuracy_table(best), BEST]
    if len(differences):
        heading = f"### Differences of test accuracy, in points [95 % interval] (pairs), {what}"
        parts += [heading, tables.difference_table(differences, baselines, most=SOME_PAIRS)]
    return parts


def baseline_text(baselines: Sequence[str]) -> str:
    """Which methods the others are held against, and why."""
    if not baselines:
        return "There is no baseline: no method without regulariser that is pruned in the same way."
    return (
        "The baseline is the method without regulariser, pruned in the same way, that is best "
        "before pruning, unmended, by its mean accuracy on validation images (where that is not "
        f"known, the one whose other settings are the same): {'; '.join(baselines)}."
    )
