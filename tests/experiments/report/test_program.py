"""The report of many runs: finding, grouping, naming, the files, and errors in one line."""

import pathlib

import numpy as np
import pandas as pd
import pytest
from finished_runs import make_run, statistics
from mistakes import check_told
from PIL import Image

from bbo.pipeline import finished
from bbo.pipeline.curve_file import read_curve
from experiments.command_line import program as cli
from experiments.report import figures, program, tables
from experiments.report.finished_runs import NAMES, find_runs, points_of
from experiments.report.statistics import paired_differences, where

ROOT = pathlib.Path(__file__).parents[3]
STUDIES = sorted(path.parent for path in (ROOT / "experiments/results").glob("*/points.csv"))
TABLES = tuple(f"{name}.csv" for name in ("curves", "differences", "gains", "classes", "summary"))
FILES = (*TABLES, "summary.md")


def run_program(*arguments):
    argv = ["report", *map(str, arguments)]
    positional = program.positional(argv)
    return cli.run_program(program.main, program.FLAGS, argv, positional=positional)


def test_unfinished_damaged_and_repeated_runs_are_listed(tmp_path, capsys):
    make_run(tmp_path / "sweep" / "0000")
    make_run(tmp_path / "sweep" / "0001", seed=1)
    make_run(tmp_path / "sweep" / "again", seed=1)
    make_run(tmp_path / "sweep" / "further", seed=1, sparsities=(0.0, 0.5, 0.9), checkpoint_every=3)
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
    found = find_runs([tmp_path, tmp_path / "sweep"])
    root = tmp_path.name
    assert [run.name for run in found.runs] == [f"{root}/sweep/0000", f"{root}/sweep/0001"]
    reasons = {name.removeprefix(f"{root}/"): reason for name, reason in found.left_out.items()}
    same = f"the same settings and seed as {root}/sweep/0001"
    assert reasons.pop("sweep/again") == same
    rest = "granularity=filter,weight recovery=none"
    measured = f"sparsities=0,0.5,0.9 {rest} here, at sparsities=0,0.5,0.6 {rest} there"
    assert reasons.pop("sweep/further") == f"{same}; measured at {measured}"
    assert reasons.pop("deeper/still/unfinished") == "unfinished: no summary.json"
    assert reasons.pop("sweep/0002") == reasons.pop("sweep/0003") == "not started"
    needed = "achieved_sparsity, granularity, macs_kept, params_kept, test_top1"
    assert f"no column {needed}" in reasons["bad/columns"]
    assert "sed" in reasons["bad/setting"]
    assert len(reasons) == 6 and all(why.startswith("damaged: ") for why in reasons.values())
    assert run_program(tmp_path, f"--out={tmp_path / 'out'}") == 0
    text = (tmp_path / "out" / "summary.md").read_text()
    assert all(f"* {name}: {reason}" in text for name, reason in found.left_out.items())
    told = f"Left out: {len(found.left_out)} runs; summary.md tells which, and why"
    assert told in capsys.readouterr().out.splitlines()


def test_settings_that_are_nearly_equal_are_reported_apart(tmp_path, capsys):
    near, points = (0.3, 3 * 0.1), (0.0, 0.3, 0.6)
    for number, rate in enumerate(near):
        for seed in (0, 1):
            folder = tmp_path / f"{number}{seed}"
            shares = (0.0, near[number], 0.6)
            settings = {"noise": "dropout", "rate": rate, "width": near[seed]}
            make_run(folder, seed=seed, sparsities=shares, **settings)
    assert run_program(tmp_path, f"--out={tmp_path / 'out'}") == 0
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert set(curves["method"]) == {"rate=0.3", "rate=0.30000000000000004"}
    assert set(curves["sparsity"]) == set(points)
    assert len(list((tmp_path / "out").glob("*_width0.3*_removed.png"))) == 2


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
    names = [*FILES]
    names += ["digits_small_cnn_removed.png"]  # the shares that are kept mirror these
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert shown.splitlines()[-2:] == [
        f"Figures: {out}/digits_small_cnn_removed.png",
        f"Tables: {out}/summary.md {' '.join(TABLES)}",
    ]
    text = (out / "summary.md").read_text()
    lines = text.splitlines()
    assert "| method | recovery | 0 % | 50 % | 60 % |" in lines
    assert "| none | as pruned | 90.0 ± 0.0 (2) | 50.0 ± 0.0 (2) | 10.0 ± 0.0 (2) |" in lines
    cells = "80.0 ± 0.0 (2) | 75.0 ± 7.1 (2) | 70.0 (1)"  # the other one failed
    assert f"| batch_bridgeout | as pruned | {cells} |" in lines
    # Half the width: 12.706 (t, one degree of freedom) times 0.05.
    cells = "-10.0 [-10.0, -10.0] (2) | +25.0 [-38.5, +88.5] (2) | +60.0 (1)"
    assert f"| batch_bridgeout − none | as pruned | {cells} |" in lines
    assert "gained by recovery" not in text  # there is none
    assert any(line.startswith("The baseline is ") and line.endswith(": none.") for line in lines)
    losses = "class 0: +5.0 [-58.5, +68.5] (2) | class 1: +0.0 [+0.0, +0.0] (2)"
    assert f"| batch_bridgeout | as pruned | {losses} |" in lines
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


@pytest.mark.slow
@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_recorded_summaries_are_those_of_their_studies(folder, tmp_path):
    assert run_program(folder, f"--out={tmp_path}", f"--archive={tmp_path / 'again'}") == 0
    made = {path.name for path in tmp_path.iterdir()} - {"again", *TABLES}
    kept = {path.name: path for path in (tmp_path / "again").iterdir()}
    assert made | set(kept) == {path.name for path in folder.iterdir()} - {NAMES}
    for path in (tmp_path / "summary.md", *kept.values()):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    for path in folder.glob("*.png"):
        with Image.open(path) as recorded, Image.open(tmp_path / path.name) as made:
            assert recorded.info["Description"] == made.info["Description"], path.name
            if recorded.info["Software"] == made.info["Software"]:  # others draw other letters
                assert np.array_equal(np.asarray(recorded), np.asarray(made)), path.name


def test_published_curves_are_complete():
    found = sorted(path.stem for path in program.PUBLISHED.glob("*.csv"))
    networks = ("thin_resnet34", "vgg16", "wrn28_10")
    assert found == [f"{data}_{net}" for data in ("cifar100", "cifar10") for net in networks]
    for path in program.PUBLISHED.glob("*.csv"):
        assert "Khan & Stavness 2020" in path.read_text(encoding="utf-8").splitlines()[0]


def test_a_run_of_before_the_costs_is_left_out(tmp_path):
    make_run(tmp_path / "0")
    curve = read_curve(tmp_path / "0" / "curve.csv")
    curve.drop(columns="macs_kept").to_csv(tmp_path / "0" / "curve.csv", index=False)
    found = find_runs([tmp_path])
    assert not found.runs and "no column macs_kept" in found.left_out[f"{tmp_path.name}/0"]
    assert {axis.measure for axis in list(figures.AXES.values())[:3]} < finished.NEEDED


def test_other_points_and_columns_of_other_runs(tmp_path):
    """One seed has a recovery, another sparsities, and a third a number that nobody knows yet."""
    make_run(tmp_path / "0", noise="none")
    make_run(tmp_path / "1", noise="none", seed=1, sparsities=(0.0, 0.3, 0.5))
    make_run(tmp_path / "2", noise="none", seed=2, checkpoint_every=1)
    curve = read_curve(tmp_path / "2" / "curve.csv")
    mended = curve.assign(recovery="of_tomorrow", test_top1=0.9)
    both = pd.concat([curve, mended]).assign(macs_compact=0.25, novelty=7.0)
    both.to_csv(tmp_path / "2" / "curve.csv", index=False)
    assert run_program(tmp_path, f"--out={tmp_path / 'out'}") == 0
    text = (tmp_path / "out" / "summary.md").read_text()
    accuracies = "90.0 ± 0.0 (3) | 80.0 (1) | 70.0 ± 17.3 (3) | 50.0 ± 0.0 (2)"
    assert f"| none | as pruned | {accuracies} |" in text
    assert "| none | of_tomorrow recovery | 90.0 (1) | - | 90.0 (1) | 90.0 (1) |" in text
    assert "multiply-adds left without dead channels](digits_small_cnn_compact.png)" in text
    curves = pd.read_csv(tmp_path / "out" / "curves.csv", keep_default_na=False)
    assert {"novelty", "macs_compact"} < set(curves["measure"])


def test_of_many_methods_only_differences_from_the_baseline_are_shown(tmp_path):
    noises = ("none", "dropout", "sparseout", "shakeout")
    both = [{"noise": noise, "seed": seed} for noise in noises for seed in (0, 1)]
    found, _ = statistics(tmp_path, *both)
    differences = paired_differences(points_of(found))
    part = where(differences, granularity="filter")
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
        (["{half}", "--archive={out}"], "half is unfinished: no summary.json"),
        (["{runs}", "--archive={runs}/0/config.json"], "cannot be written"),
        (["{runs}", "--archive={runs}/0"], "is the folder of a sweep or a run; name another"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, told):
    places = {name: tmp_path / name for name in ("runs", "empty", "half", "out")}
    make_run(tmp_path / "runs" / "0")
    make_run(tmp_path / "half")
    (tmp_path / "half" / "summary.json").unlink()
    (tmp_path / "empty").mkdir()
    assert run_program(*(argument.format(**places) for argument in arguments)) == 2
    check_told(capsys, told)
    assert not (tmp_path / "out").exists()


def test_help_tells_what_it_writes(capsys):
    assert run_program("--help") == 0
    shown = capsys.readouterr().out
    assert "differences.csv" in shown and "--out" in shown
