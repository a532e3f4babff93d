"""A run whose files are damaged ends with the very result of one whose files are whole."""

import json
import shutil

import pytest
import small_run

from bbo import files
from bbo.pipeline import loop
from bbo.pipeline.curve import _known
from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.points import points_of
from bbo.settings.config import override

SMALL = override(small_run.SMALL, epochs=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_experiment(SMALL, folder)
    return folder


def cut_curve(folder):
    path = folder / "curve.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    return "curve.csv"


def empty_summary(folder):
    (folder / "summary.json").write_text("")
    return "summary.json"


def no_curve(folder):
    (folder / "curve.csv").unlink()
    return "curve.csv"


@pytest.mark.parametrize("damage", [cut_curve, empty_summary, no_curve])
def test_a_finished_one_is_measured_again(damage, whole, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    name = damage(folder)
    monkeypatch.setattr(loop, "training_batches", None)  # it is not trained again
    result = run_experiment(SMALL, folder)
    assert f"{folder} is damaged: {name}; kept under another name" in capsys.readouterr().err
    assert (folder / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()
    assert result.summary["failed_points"] == 0 and result.summary["seconds_to_train"] > 0
    before, now = ({path.name for path in place.iterdir()} for place in (whole, folder))
    kept = {"summary.json.damaged", *(["curve.csv.damaged"] if damage is cut_curve else [])}
    assert now - before == kept


def test_epochs_that_are_lost_are_told_and_not_counted(whole, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    result = run_experiment(SMALL, folder)
    told = capsys.readouterr().err
    assert f"{folder} is damaged: metrics.jsonl; " in told
    assert "metrics.jsonl was damaged or removed: 2 of 2 epochs are missing\n" in told
    assert result.summary["seconds_to_train"] is None
    assert run_experiment(SMALL, folder).summary == result.summary
    assert capsys.readouterr().err == ""


def row_of(point, **others):
    granularity, sparsity, recovery = point
    settings = {"criterion": "l2", "granularity": granularity, "scope": "local"}
    about = {"method": "none", "state": "best_validation", "meaning": "clean"}
    row = settings | about | {"recovery": recovery, "sparsity": sparsity, "error": ""}
    return row | {"test_top1": sparsity / 3} | others


def test_rows_are_known_by_what_they_measure(tmp_path):
    path, config = tmp_path / "curve.jsonl", SMALL.pruning
    about = {"method": "none", "state": "best_validation"}
    points = points_of(config)
    assert len(points) == 4
    rows = {point: row_of(point) for point in points}
    files.write_lines(path, reversed(rows.values()))
    assert _known(path, about, config) == rows
    assert list(_known(path, about, config)) == points
    # One line is damaged, one is of another setting, one is cut short.
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"test_top1": 0', '"test_top1": 1')
    lines[2] = files.sealed(row_of(points[1], criterion="l1")) + "\n"
    path.write_text("".join(lines)[:-9])
    assert list(_known(path, about, config)) == [points[3]]
    # Without digests, as an earlier version wrote them.
    path.write_text(json.dumps(rows[points[2]]) + "\n")
    assert _known(path, about, config) == {points[2]: rows[points[2]]}
