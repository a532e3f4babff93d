"""Tables and figures of many runs: methods compared over seeds, with intervals.

  python -m experiments.report runs/digits --out=report          of all finished runs below a folder
  python -m experiments.report runs/a runs/b --out=report        of several
  python -m experiments.report runs/digits --archive=study       keeps them, in three tables

Runs that differ in nothing but their seed, and the points at which they were measured, are one
method; methods are compared on the same dataset and network, and named by the settings in which
they differ. Written are curves.csv (each measure at each pruning point), differences.csv (between
methods that have two seeds in common, seed by seed), gains.csv (by recovery, of the same networks),
classes.csv (what each class loses when half is removed), summary.csv, summary.md and figures. In
the files, accuracies are fractions. Intervals are 95 % confidence intervals of the mean, by
Student's t. Runs that are unfinished or damaged are left out and listed in summary.md. Printed is
who is ahead, by how much, and where the files are. Exit status 2: nothing to report, or a mistake.

--archive writes the runs that would be reported on as a study, to hand on: runs.jsonl (their
settings, environments and summaries), points.csv (all pruning points) and epochs.csv (all epochs).
The folder of a study may be given for that of its runs. A study that is there keeps its runs and
gets those that it does not hold; with another run of one name, nothing is written. A names.json
beside the tables is heeded: from the text of a method to a better one.
"""

import io
import pathlib
from collections.abc import Sequence

import pandas as pd
from absl import flags
from matplotlib.figure import Figure

from bbo.files import write_text
from bbo.pipeline.curve_file import exact_text, save_figure
from bbo.types import UsageError
from experiments.report import figures, statistics
from experiments.report.archive import records_at, write_study
from experiments.report.chapters import chapter, left_out, opening, problem_text
from experiments.report.finished_runs import (
    Found,
    Method,
    find_runs,
    grouped,
    points_of,
    renamed,
)
from experiments.report.statistics import (
    PROBLEM,
    best_recovery,
    class_losses,
    curve_statistics,
    paired_differences,
    recovery_gains,
)
from experiments.report.verdict import verdict

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "out", None, "folder for the tables and figures", flag_values=FLAGS, module_name=" report"
)
flags.DEFINE_string(
    "archive", None, "folder to keep the runs in", flag_values=FLAGS, module_name=" report"
)
PUBLISHED = pathlib.Path(__file__).parents[1] / "published"
"""The curves of the paper, a file for each dataset and network."""


def main(values: flags.FlagValues, *directories: str) -> None:
    """Keeps or reports on all runs below the directories; tells what came of it, and where."""
    writers = {"archive": write_archive, "out": write_report}
    given = [name for name in writers if values[name].value]
    if not given:
        raise UsageError("out is missing; name a folder for the tables, as in --out=report")
    found = find_runs([pathlib.Path(folder).expanduser() for folder in directories])
    if not found.runs:
        listed = "; ".join(f"{name} is {reason}" for name, reason in found.left_out.items())
        where = " and ".join(directories)
        raise UsageError(f"no finished run in {where}" + (f": {listed}" if listed else ""))
    for name in given:
        out = pathlib.Path(values[name].value).expanduser()
        try:
            text, paths = writers[name](found, out)
        except OSError as error:
            why = f"{name} {out} cannot be written: {error.strerror}; name another"
            raise UsageError(why) from None
        print(text)
        print(*places_text(paths), sep="\n")


def write_archive(found: Found, out: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    """Writes the runs as a study; gives what was left out, as text, and the paths of the tables."""
    names = {run.name for run in found.runs}
    records = [one for place in found.places for one in records_at(*place, names)]
    text = "\n\n".join([f"{len(names)} finished runs.", *left_out(found)])
    return text, write_study(out, records)


def write_report(found: Found, out: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    """Writes everything; gives the verdict in a few lines and the paths of all files."""
    out.mkdir(parents=True, exist_ok=True)
    groups = renamed(grouped(found.runs), [folder for folder, _ in found.places])
    records, chosen = statistics_of(points_of(groups))
    paths = [out / f"{name}.csv" for name in records]
    for path, table in zip(paths, records.values(), strict=True):
        content = io.StringIO()
        table.to_csv(content, index=False, lineterminator="\n")
        write_text(path, content.getvalue())
    parts, verdicts = [opening(found, groups)], []
    for problem in dict.fromkeys(group.problem for group in groups):
        own = [group for group in groups if group.problem == problem]
        tables_of = (records | chosen).items()
        of_problem = {name: _of_problem(table, own[0]) for name, table in tables_of}
        names = write_figures(own, of_problem["curves"], of_problem["best"], out)
        paths += [out / name for name in names]
        parts += [chapter(own, of_problem)]
        verdicts += [verdict(own, of_problem)]
        parts += [f"![Test accuracy against {on_axis}]({name})" for name, on_axis in names.items()]
    write_text(out / "summary.md", "\n\n".join(parts) + "\n")
    if found.left_out:
        verdicts += [f"Left out: {len(found.left_out)} runs; summary.md tells which, and why"]
    return "\n".join(verdicts), [out / "summary.md", *paths]


def statistics_of(
    points: pd.DataFrame,
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """All statistics by name: those that are written as tables, and those of best recoveries."""
    best = best_recovery(points)
    records = {
        "curves": curve_statistics(points),
        "differences": paired_differences(points),
        "gains": recovery_gains(points),
        "classes": class_losses(points),
        "summary": statistics.summary(points),
    }
    return records, {
        "best": curve_statistics(best) if len(best) else best,
        "best_differences": paired_differences(best) if len(best) else best,
    }


def places_text(paths: Sequence[pathlib.Path]) -> list[str]:
    """A line for the figures and one for the tables: the first with its folder, the others' names.

    >>> places_text([pathlib.Path("out/summary.md"), pathlib.Path("out/curves.csv")])
    ['Tables: out/summary.md curves.csv']
    """
    figures_made = sorted((path for path in paths if path.suffix == ".png"), key=_interest)
    kinds = {"Figures": figures_made, "Tables": [path for path in paths if path.suffix != ".png"]}
    return [
        f"{kind}: {' '.join([str(made[0]), *(path.name for path in made[1:])])}"
        for kind, made in kinds.items()
        if made
    ]


def _interest(path: pathlib.Path) -> int:
    """Figures of best recoveries come first, then those of what is removed."""
    ends = ("_best.png", "_removed.png")
    return next((place for place, end in enumerate(ends) if path.name.endswith(end)), len(ends))


def _of_problem(table: pd.DataFrame, group: Method) -> pd.DataFrame:
    return statistics.where(table, **dict(zip(PROBLEM, group.problem, strict=True)))


def write_figures(
    groups: Sequence[Method], curves: pd.DataFrame, best: pd.DataFrame, out: pathlib.Path
) -> dict[str, str]:
    """A figure for each axis that shows something new; gives what is on it, by the file's name.

    And one of what each method reaches with its best recovery, if that is known.
    """
    dataset, network, width = groups[0].problem
    stem = f"{dataset}_{network}" + ("" if width == 1 else f"_width{exact_text(width)}")
    published, note = published_curves(groups[0])
    title = f"{problem_text(groups[0])}: {figures.runs_text([len(group.runs) for group in groups])}"
    names = {}
    for name in figures.distinct_axes(curves):
        is_removed = name == "removed"
        figure = figures.comparison_figure(
            curves,
            figures.AXES[name],
            title=title + (f"\n{note}" if is_removed and note else ""),
            published=published if is_removed else None,
            noise_of={group.method: group.settings["noise"] for group in groups},
        )
        names[f"{stem}_{name}.png"] = figures.AXES[name].short
        _save(figure, out / f"{stem}_{name}.png")
    if len(best):
        figure = figures.comparison_figure(best, figures.AXES["removed"], title=title)
        names[f"{stem}_best.png"] = "what is removed, with the best recovery"
        _save(figure, out / f"{stem}_best.png")
    return names


def _save(figure: Figure, path: pathlib.Path) -> None:
    save_figure(path, figure, description=f"of the lines: {figures.fingerprint(figure)}")


def published_curves(group: Method) -> tuple[pd.DataFrame | None, str]:
    """The paper's curves for the dataset and network of a group, and what is to be said of them.

    None if there are none, or the width is not the paper's.
    """
    dataset, network, width = group.problem
    path = PUBLISHED / f"{dataset}_{network}.csv"
    if not path.exists():
        return None, ""
    if width != 1:
        return None, "the curves of the paper, of width 1, are left out"
    curves = pd.read_csv(path, comment="#", keep_default_na=False)
    return curves, "dashed: Khan & Stavness 2020, by the protocol of the paper"


def positional(argv: Sequence[str]) -> list[str]:
    """A name for each argument that is no flag, as ``cli.run_program`` wants them: at least one."""
    try:
        return ["DIR"] * max(1, len(FLAGS(list(argv))) - 1)
    except (flags.Error, ValueError):  # which it will tell about
        return ["DIR"]
