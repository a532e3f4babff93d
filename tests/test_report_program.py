"""The report of many runs: finding, grouping, naming, the files, and errors in one line."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from bbo import config as configs
from bbo import figures, report, study, tables
from bbo.config import ExperimentConfig, override
from experiments import cli
from experiments import report as program

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = sorted(path.parent for path in (ROOT / "experiments/results").glob("*/runs"))
TABLES = ("curves.csv", "differences.csv", "gains.csv", "summary.csv", "summary.md")
BASE = override(ExperimentConfig(), sparsities=(0.0, 0.5, 0.6), recovery=("none",))


def make_run(folder, accuracies=(0.9, 0.8, 0.5), failed=None, **settings):
    """A finished run, as it is left behind; the point ``failed`` has an error instead."""
    config = override(BASE, **settings)
    rows = []
    for sparsity, accuracy in zip(config.pruning.sparsities, accuracies, strict=True):
        numbers = {
            "test_top1": accuracy,
            "validation_top1": accuracy,
            "test_loss": 1 - accuracy,
            "test_ece": 0.1,
        }
        numbers |= {"test_class_top1": f"{accuracy};1", "error": ""}
        for granularity in config.pruning.granularity:
            rows.append(
                {
                    "method": config.noise.noise,
                    "granularity": granularity,
                    "recovery": "none",
                    "sparsity": sparsity,
                    "achieved_sparsity": sparsity,
                    "macs_kept": 1 - sparsity,
                    "params_kept": 1 - sparsity,
                }
                | ({"error": "ValueError: no"} if sparsity == failed else numbers)
            )
    folder.mkdir(parents=True)
    record = {"config": configs.to_json(config), "environments": [{"device": "cpu"}]}
    (folder / "config.json").write_text(json.dumps(record))
    report.write_curve(folder / "curve.csv", rows)
    (folder / "summary.json").write_text("{}")


def run_program(*arguments):
    argv = ["report", *map(str, arguments)]
    positional = program.positional(argv)
    return cli.run_program(program.main, program.FLAGS, argv, positional=positional)


def test_unfinished_damaged_and_repeated_runs_are_listed(tmp_path, capsys):
    make_run(tmp_path / "sweep" / "0000")
    make_run(tmp_path / "sweep" / "0001", seed=1)
    make_run(tmp_path / "sweep" / "again", seed=1)
    (tmp_path / "sweep" / "runs.jsonl").write_text('{"a": 1}\n' * 4)
    make_run(tmp_path / "deeper" / "still" / "unfinished", seed=2)
    (tmp_path / "deeper" / "still" / "unfinished" / "summary.json").unlink()
    for name, file, text in [
        ("text", "config.json", "{"),
        ("setting", "config.json", '{"config": {"train": {"sed": 1}}}'),
        ("list", "config.json", "[]"),
        ("empty", "curve.csv", ""),
        ("columns", "curve.csv", "sparsity,recovery\n0,none\n"),
        ("summary", "summary.json", '{"cut'),
    ]:
        make_run(tmp_path / "bad" / name, seed=3)
        (tmp_path / "bad" / name / file).write_text(text)
    (tmp_path / "0000" / "checkpoints").mkdir(parents=True)  # nothing of a run
    found = study.find_runs([tmp_path, tmp_path / "sweep"])
    root = tmp_path.name
    assert [run.name for run in found.runs] == [f"{root}/sweep/0000", f"{root}/sweep/0001"]
    reasons = {name.removeprefix(f"{root}/"): reason for name, reason in found.left_out.items()}
    assert reasons.pop("sweep/again") == f"the same settings and seed as {root}/sweep/0001"
    assert reasons.pop("deeper/still/unfinished") == "unfinished: no summary.json"
    assert reasons.pop("sweep/0002") == reasons.pop("sweep/0003") == "not started"
    assert "no column granularity, test_top1" in reasons["bad/columns"]
    assert "sed" in reasons["bad/setting"]
    assert len(reasons) == 6 and all(why.startswith("damaged: ") for why in reasons.values())
    assert run_program(tmp_path, f"--out={tmp_path / 'out'}") == 0
    shown = capsys.readouterr().out
    assert all(f"* {name}: {reason}" in shown for name, reason in found.left_out.items())


def test_report_of_small_runs(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path / "a" / f"none{seed}", (0.9, 0.5, 0.1), noise="none", seed=seed)
        make_run(
            tmp_path / "b" / f"bb{seed}",
            (0.8, 0.8 - seed / 10, 0.7),
            failed=0.6 if seed else None,
            seed=seed,
        )
    out = tmp_path / "new" / "out"
    assert run_program(tmp_path / "a", tmp_path / "b", "--out", out) == 0
    shown = capsys.readouterr().out
    names = [*TABLES]
    names += [f"digits_small_cnn_{axis}.png" for axis in figures.AXES]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(str(out / name) in shown.splitlines() for name in names)
    text = (out / "summary.md").read_text()
    assert text in shown
    lines = text.splitlines()
    assert "| method | recovery | 0 % | 50 % | 60 % |" in lines
    assert "| none | as pruned | 90.0 ± 0.0 (2) | 50.0 ± 0.0 (2) | 10.0 ± 0.0 (2) |" in lines
    cells = "80.0 ± 0.0 (2) | 75.0 ± 7.1 (2) | 70.0 (1)"  # the other one failed
    assert f"| batch_bridgeout | as pruned | {cells} |" in lines
    # Half the width: 12.706 (t, one degree of freedom) times 0.05.
    cells = "-10.0 [-10.0, -10.0] (2) | +25.0 [-38.5, +88.5] (2) | +60.0 (1)"
    assert f"| batch_bridgeout − none | as pruned | {cells} |" in lines
    assert "gained by recovery" not in text  # there is none
    assert "* batch_bridgeout, seed 1, filters, 60 %, as pruned: ValueError: no" in lines
    row = next(line for line in lines if line.startswith("| none | as pruned | "))
    assert row.startswith(
        "| none | as pruned | 90.0 ± 0.0 (2) | 63.3 ± 0.0 (2) | 63.3 ± 0.0 (2) | 0 % | 0 %"
    )
    curves = pd.read_csv(out / "curves.csv")
    assert set(curves["measure"]) == {
        *("achieved_sparsity", "macs_kept", "params_kept"),
        *("test_top1", "validation_top1", "test_loss", "test_ece"),
    }
    assert curves["failed"].sum() == 2 * 7  # for each granularity and measure
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run_program(tmp_path / "a", tmp_path / "b", "--out", out) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_recorded_tables_are_those_of_their_records(folder, tmp_path):
    assert run_program(folder / "runs", f"--out={tmp_path}") == 0
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} | {"runs"} == {
        path.name for path in folder.iterdir()
    }


def drawn(curves, **options):
    """The figure of curves from ``make_run``, as ``experiments.report`` makes its table."""
    return figures.comparison_figure(curves, figures.AXES["removed"], title="a title", **options)


def statistics(tmp_path, *settings):
    from bbo import comparison

    for i, one in enumerate(settings):
        make_run(tmp_path / str(i), **one)
    found = study.grouped(study.find_runs([tmp_path]).runs)
    return found, comparison.curve_statistics(study.points_of(found))


def test_the_paper_is_laid_over_filters_of_full_width_only(tmp_path):
    cifar = {"dataset": "cifar10", "model": "vgg16"}
    found, curves = statistics(
        tmp_path, cifar | {"noise": "none"}, cifar | {"noise": "dropout"}, cifar | {"width": 0.125}
    )
    narrow, none, dropout = found
    published, note = program.published_curves(none)
    assert published is not None and "Khan & Stavness 2020" in note
    assert sorted(published["method"].unique()) == ["batch_bridgeout", "dropout", "none"]
    assert published["accuracy_mean"].max() < 100
    assert program.published_curves(narrow) == (None, "width 0.125, the paper: 1")
    digits = study.Group("none", study.settings_of(BASE), [])
    assert program.published_curves(digits) == (None, "")
    own = curves[curves["width"] == 1]
    noise_of = {group.method: group.settings["noise"] for group in (none, dropout)}
    figure = drawn(own, published=published, noise_of=noise_of)
    panels = figure.get_axes()
    dashed = [[line for line in panel.lines if line.get_linestyle() == "--"] for panel in panels]
    assert [len(lines) for lines in dashed] == [3, 0]  # filters, weights
    colours = {line.get_label(): line.get_color() for line in panels[0].lines}
    assert colours["none, the paper"] == colours["none"] != colours["dropout"]
    assert colours["dropout, the paper"] == colours["dropout"]
    assert len(figure.legends) == 1
    assert run_program(tmp_path, f"--out={tmp_path / 'out'}") == 0
    files = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"cifar10_vgg16_removed.png", "cifar10_vgg16_width0.125_macs.png"} <= files


def test_published_curves_are_complete():
    found = sorted(path.stem for path in program.PUBLISHED.glob("*.csv"))
    networks = ("thin_resnet34", "vgg16", "wrn28_10")
    assert found == [f"{data}_{net}" for data in ("cifar100", "cifar10") for net in networks]
    for path in program.PUBLISHED.glob("*.csv"):
        assert "Khan & Stavness 2020" in path.read_text(encoding="utf-8").splitlines()[0]


def test_figures_draw_means_and_intervals(tmp_path):
    runs = [{"seed": 0}, {"seed": 1, "accuracies": (0.7, 0.8, 0.5), "failed": 0.5}]
    _, curves = statistics(tmp_path, *runs)
    panel = drawn(curves).get_axes()[0]
    (line,) = panel.lines
    np.testing.assert_allclose(line.get_xydata(), [[0, 80], [50, 80], [60, 50]])
    assert panel.get_xlabel() == "filters removed (%)" and panel.get_ylim() == (0, 102)
    kept = figures.comparison_figure(curves, figures.AXES["macs"], title="").get_axes()[0]
    assert kept.get_xlim()[0] > kept.get_xlim()[1] and "weight" in kept.get_xlabel()
    assert (
        len(set(figures.COLOURS)) == 7 and len(figures.styles_of([str(i) for i in range(9)])) == 9
    )


def test_of_many_methods_only_differences_from_the_baseline_are_shown(tmp_path):
    from bbo import comparison

    noises = ("none", "dropout", "sparseout", "shakeout")
    found, _ = statistics(tmp_path, *({"noise": noise} for noise in noises))
    differences = comparison.paired_differences(study.points_of(found))
    part = comparison.where(differences, granularity="filter")
    header, _, *rows = tables.difference_table(part, ["none"]).splitlines()
    assert header.startswith("| method − reference | recovery | 0 % |")
    assert [" − none | as pruned | " in row for row in rows] == [True] * 3
    assert len(tables.difference_table(part, [""]).splitlines()) == 2 + 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "DIR is missing"),
        (["{runs}"], "out is missing"),
        (["{runs}", "--out="], "out is missing"),
        (["{runs}/none", "--out={out}"], "none is not a folder"),
        (["{empty}", "--out={out}"], "no finished run in"),
        (["{half}", "--out={out}"], "half is unfinished: no summary.json"),
        (["{runs}", "--out={runs}/0/config.json"], "cannot be written"),
        (["{runs}", "--ot={out}"], "Unknown command line flag 'ot'"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, told):
    places = {name: tmp_path / name for name in ("runs", "empty", "half", "out")}
    make_run(tmp_path / "runs" / "0")
    make_run(tmp_path / "half")
    (tmp_path / "half" / "summary.json").unlink()
    (tmp_path / "empty").mkdir()
    assert run_program(*(argument.format(**places) for argument in arguments)) == 2
    shown = capsys.readouterr()
    assert told in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert not (tmp_path / "out").exists()


def test_help_tells_what_it_writes(capsys):
    assert run_program("--help") == 0
    shown = capsys.readouterr().out
    assert "differences.csv" in shown and "--out" in shown
