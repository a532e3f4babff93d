"""Studies: runs kept in three tables are read as if from their own folders, or not at all."""

import json
import pathlib
import shutil

import pandas as pd
import pytest
from finished_runs import make_run
from mistakes import check_told

from bbo.pipeline import curve_file
from bbo.types import UsageError
from experiments.command_line import program as cli
from experiments.report import archive, program
from experiments.report.finished_runs import find_runs

TABLES = {"runs.jsonl", "points.csv", "epochs.csv"}


def run_program(*arguments):
    argv = ["report", *map(str, arguments)]
    positional = program.positional(argv)
    return cli.run_program(program.main, program.FLAGS, argv, positional=positional)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_runs(folder):
    """Runs that differ in all that a study must keep apart; one has recorded no epochs."""
    make_run(folder / "0", (0.1 + 0.2, 1 / 3, 0.5), noise="none")
    make_run(folder / "1", noise="none", seed=1)
    make_run(folder / "deeper" / "2", failed=0.0, seed=2)
    curve = curve_file.read_curve(folder / "1" / "curve.csv")
    curve = curve.assign(units=7, macs_compact=0.25, test_class_top1=[None, *["1;;0.25;"] * 5])
    curve["error"] = ['ValueError: "a", b;\u2028c', *[""] * 5]
    curve.to_csv(folder / "1" / "curve.csv", index=False)
    (folder / "1" / "summary.json").write_text('{"macs": 1, "seconds": 1.0, "of": {"none": NaN}}')
    metrics = '{"epoch": 1, "train_loss": 0.1}\n{"epoch": 2, "train_loss": NaN, "seconds": 3e-07}\n'
    (folder / "0" / "metrics.jsonl").write_text(metrics)
    (folder / "1" / "metrics.jsonl").write_text('{"epoch": 1, "validation_top1": 1.0}\n')


@pytest.fixture
def folders(tmp_path):
    """Those of the runs and of the study of them."""
    make_runs(tmp_path / "runs")
    assert run_program(tmp_path / "runs", f"--archive={tmp_path / 'study'}") == 0
    return tmp_path / "runs", tmp_path / "study"


def test_a_study_is_read_as_the_folders_of_its_runs(folders, tmp_path):
    runs, kept = folders
    found, of_study = find_runs([runs]), find_runs([kept])
    assert [run.name for run in of_study.runs] == ["runs/0", "runs/1", "runs/deeper/2"]
    assert not of_study.left_out
    for run, same in zip(found.runs, of_study.runs, strict=True):
        assert same._replace(curve=None) == run._replace(curve=None)
        pd.testing.assert_frame_equal(same.curve[list(run.curve)], run.curve, check_exact=True)
        assert same.curve.drop(columns=list(run.curve)).isna().all(axis=None)  # of the others
    for folder in folders:
        assert run_program(folder, f"--out={tmp_path / 'out' / folder.name}") == 0
    assert bytes_of(tmp_path / "out" / "runs") == bytes_of(tmp_path / "out" / "study")


def test_all_values_are_kept_one_in_a_cell(folders):
    runs, kept = folders
    assert set(bytes_of(kept)) == TABLES
    lines = [json.loads(line) for line in (kept / "runs.jsonl").read_text().splitlines()]
    for line in lines:
        folder = runs.parent / line["name"]
        record = json.loads((folder / "config.json").read_text())
        assert {name: line[name] for name in record} == record
        assert json.dumps(line["summary"]) == (folder / "summary.json").read_text()
    assert [(line["points"], line["epochs"]) for line in lines] == [(6, 2), (6, 1), (6, 0)]
    points = pd.read_csv(kept / "points.csv", dtype=str, keep_default_na=False)
    assert points["run"].tolist() == [line["name"] for line in lines for _ in range(6)]
    classes = [f"test_class_top1_{i}" for i in range(4)]
    assert not points.filter(like="class").columns.difference(classes).size
    assert points.loc[0, ["test_top1", *classes]].tolist() == [
        *("0.30000000000000004", "0.30000000000000004", "1", "", "")
    ]
    assert points.loc[6, classes].tolist() == [""] * 4  # failed
    assert points.loc[7, classes].tolist() == ["1", "nan", "0.25", "nan"]  # no images
    assert points.loc[[5, 6], "macs_compact"].tolist() == ["", "0.25"]
    assert (kept / "epochs.csv").read_text() == (
        "run,epoch,train_loss,seconds,validation_top1\n"
        "runs/0,1,0.1,,\nruns/0,2,nan,3e-07,\nruns/1,1,,,1.0\n"
    )


def test_a_study_of_a_study_is_the_same(folders, tmp_path, capsys):
    _, kept = folders
    before = bytes_of(kept)
    assert run_program(kept, f"--archive={tmp_path / 'again'}") == 0
    assert bytes_of(tmp_path / "again") == before
    assert run_program(kept, f"--archive={kept}") == 0 and bytes_of(kept) == before
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"Tables: {kept / 'points.csv'} epochs.csv runs.jsonl"


def test_runs_without_epochs_have_no_table_of_them(tmp_path):
    make_run(tmp_path / "runs" / "0")
    assert run_program(tmp_path / "runs", f"--archive={tmp_path / 'study'}") == 0
    assert set(bytes_of(tmp_path / "study")) == TABLES - {"epochs.csv"}
    assert len(archive.read_study(tmp_path / "study")) == 1


def test_runs_and_studies_in_one_folder(folders, tmp_path, capsys):
    runs, kept = folders
    shutil.rmtree(runs)
    make_run(tmp_path / "sweep" / "0000", seed=7)
    (tmp_path / "sweep" / "runs.jsonl").write_text("{}\n{}\n")  # of a sweep
    shutil.copytree(kept, tmp_path / "twice")
    found = find_runs([tmp_path])
    root = tmp_path.name
    of_study = [f"{root}/study/runs/{name}" for name in ("0", "1", "deeper/2")]
    assert [run.name for run in found.runs] == [*of_study, f"{root}/sweep/0000"]
    assert found.left_out.pop(f"{root}/sweep/0001") == "not started"
    assert found.left_out == {
        name.replace("study", "twice"): f"the same settings and seed as {name}" for name in of_study
    }
    assert run_program(tmp_path, f"--archive={tmp_path / 'all'}") == 0
    assert f"* {root}/sweep/0001: not started" in capsys.readouterr().out.splitlines()
    assert [run.name for run in archive.read_study(tmp_path / "all")] == [
        run.name for run in found.runs
    ]
    several = find_runs([kept, tmp_path / "sweep"])
    assert [run.name for run in several.runs][-2:] == ["study/runs/deeper/2", "sweep/0000"]


def test_a_study_grows_and_loses_nothing(folders, tmp_path, capsys):
    runs, kept = folders
    make_run(runs / "3", seed=3)
    assert run_program(runs, f"--archive={kept}") == 0
    grown = bytes_of(kept)
    assert [run.name for run in archive.read_study(kept)][-2:] == ["runs/deeper/2", "runs/3"]
    shutil.rmtree(runs / "3")  # on another machine
    assert run_program(runs, f"--archive={kept}") == 0
    assert bytes_of(kept) == grown
    capsys.readouterr()
    shutil.rmtree(runs / "0")
    make_run(runs / "0", seed=8)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "runs.jsonl").write_text("{}\n")
    for folder, why in [
        (
            kept,
            f"archive {kept} holds another run runs/0; name another folder for the archive, "
            "or call that of these runs otherwise",
        ),
        (sweep, f"archive {sweep} is the folder of a sweep or a run; name another"),
    ]:
        assert run_program(runs, f"--archive={folder}") == 2
        shown = capsys.readouterr()
        assert shown.err == f"error: {why}\n" and not shown.out
    assert bytes_of(kept) == grown and bytes_of(sweep) == {"runs.jsonl": b"{}\n"}


def test_runs_of_one_name_or_damaged_where_a_report_does_not_look_are_not_kept(tmp_path, capsys):
    make_run(tmp_path / "a" / "runs" / "0")
    make_run(tmp_path / "b" / "runs" / "0", seed=1)
    out = f"--archive={tmp_path / 'study'}"
    assert run_program(tmp_path / "a" / "runs", tmp_path / "b" / "runs", out) == 2
    assert "several runs have one name" in capsys.readouterr().err
    (tmp_path / "a" / "runs" / "0" / "metrics.jsonl").write_text("7\n")
    assert run_program(tmp_path / "a", out) == 2
    assert "runs/0 is damaged: metrics.jsonl cannot be read" in capsys.readouterr().err
    curve = tmp_path / "a" / "runs" / "0" / "curve.csv"
    curve.write_text(curve.read_text().replace("\nbatch", "\n0,batch"))  # as with an index
    assert run_program(tmp_path / "a", out) == 2
    assert "runs/0 is damaged: curve.csv cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def edit(path: pathlib.Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("points.csv", lambda path: path.write_text(path.read_text()[:-3]), "cells"),
        ("points.csv", lambda path: path.write_text(path.read_text()[:-1]), "cut"),
        ("points.csv", lambda path: edit(path, path.read_text().splitlines()[3], ""), "cut"),
        ("points.csv", lambda path: path.write_text(""), "cut"),
        ("points.csv", lambda path: path.write_bytes(b"\xff\n"), "utf-8"),
        ("points.csv", lambda path: edit(path, "runs/1,", "runs/9,"), "is of run runs/9"),
        ("points.csv", lambda path: edit(path, "run,", "ran,"), "is of run None"),
        ("points.csv", lambda path: edit(path, "macs_kept", "cost"), "no column macs_kept"),
        ("points.csv", lambda path: edit(path, "0.30000000000000004", "x"), "to float: 'x'"),
        ("points.csv", lambda path: edit(path, '"ValueError', "ValueError"), "cells"),
        ("epochs.csv", lambda path: path.unlink(), "No such file"),
        ("epochs.csv", lambda path: edit(path, "runs/1,1,,,1.0\n", ""), "cut"),
        ("points.csv", lambda path: edit(path, 'c",', "c,"), "unexpected end of data"),
        ("runs.jsonl", lambda path: path.write_text(path.read_text()[:-9]), "line 1 column"),
        ("runs.jsonl", lambda path: path.write_text("7\n"), "int"),
        ("runs.jsonl", lambda path: path.write_text("{}\n"), "name"),
        ("runs.jsonl", lambda path: path.write_text(""), "points.csv"),
        ("runs.jsonl", lambda path: path.write_text(path.read_text() * 2), "one name"),
        ("runs.jsonl", lambda path: edit(path, '"seed"', '"sed"'), "sed"),
        ("runs.jsonl", lambda path: edit(path, '"config"', '"settings"'), "config"),
        ("runs.jsonl", lambda path: edit(path, '[{"device": "cpu"}]', "7"), "int"),
    ],
)
def test_a_damaged_study_is_left_out_and_told(folders, capsys, file, damage, told):
    runs, kept = folders
    damage(kept / file)
    with pytest.raises(UsageError, match="^damaged: ") as raised:
        archive.read_study(kept, "study")
    assert told in str(raised.value)
    found = find_runs([runs, kept])
    assert len(found.runs) == 3 and found.left_out == {"study": str(raised.value)}
    capsys.readouterr()
    for out in ("archive", "out"):
        before = bytes_of(kept)
        assert run_program(kept, f"--{out}={kept.parent / 'new'}") == 2
        check_told(capsys, "study is damaged: ")
        assert bytes_of(kept) == before and not (kept.parent / "new").exists()
