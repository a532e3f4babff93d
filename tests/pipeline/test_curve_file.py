"""Reports: the curve file, the table and the plot."""

import struct

import numpy as np
import pandas as pd
import pytest

from bbo import files
from bbo.pipeline.curve_file import (
    Figure,
    curve_table,
    failures,
    plot_curve,
    read_curve,
    shortfalls,
    write_curve,
)
from bbo.pipeline.experiment import _finish
from bbo.pipeline.run import Trained
from bbo.pipeline.stages import Stage
from bbo.settings.config import ExperimentConfig
from bbo.types import RunError

ROWS = [
    {
        "granularity": granularity,
        "recovery": recovery,
        "sparsity": sparsity,
        "achieved_sparsity": sparsity,
        "test_top1": accuracy,
        "test_loss": 1 / 3,
    }
    for granularity, recovery, sparsity, accuracy in [
        ("filter", "none", 0.0, 0.9876),
        ("filter", "batch_norm", 0.0, 0.99),
        ("filter", "none", 0.25, 0.5),
        ("filter", "batch_norm", 0.25, 0.75),
        ("weight", "none", 0.0, 0.9876),
        ("weight", "batch_norm", 0.0, 0.99),
        ("weight", "none", 0.25, 0.9),
        ("weight", "batch_norm", 0.25, 1.0),
    ]
]


def test_table_by_hand():
    lines = curve_table(pd.DataFrame(ROWS)).splitlines()
    columns = ["filters, as pruned", "filters, batch_norm recovery"]
    columns += ["weights, as pruned", "weights, batch_norm recovery"]
    assert [part.strip() for part in lines[0].split("  ") if part.strip()] == columns
    assert [line.split() for line in lines[1:]] == [
        ["0", "%", "98.8", "99.0", "98.8", "99.0"],
        ["25", "%", "50.0", "75.0", "90.0", "100.0"],
    ]


def test_what_equal_scores_left_is_told():
    rows = [row | {"achieved_sparsity": 0.07 if row["sparsity"] else 0.0} for row in ROWS[:4]]
    expected = ["filters, 25 %: 7.0 % were removed (ties stay, and each layer rounds down)"]
    assert shortfalls(pd.DataFrame(rows)) == expected
    assert curve_table(pd.DataFrame(rows)).splitlines()[-1] == f"- {expected[0]}"
    seeds = [*rows, *ROWS[2:4]]
    assert "16.0 % were removed" in shortfalls(pd.DataFrame(seeds))[0]
    assert shortfalls(pd.DataFrame([row | {"achieved_sparsity": 0.21} for row in ROWS[2:4]])) == []
    assert shortfalls(pd.DataFrame(ROWS)) == []


def test_a_point_that_failed_is_a_dash_and_told():
    rows = [row | {"error": ""} for row in ROWS]
    for row in rows[2:4]:
        del row["test_top1"]
        row["error"] = "ValueError: no"
    lines = curve_table(pd.DataFrame(rows)).splitlines()
    assert lines[2].split() == ["25", "%", "-", "-", "90.0", "100.0"]
    assert lines[3:] == [
        "- filters, 25 %, as pruned: ValueError: no",
        "- filters, 25 %, batch_norm recovery: ValueError: no",
    ]
    # A whole column of them does not vanish.
    rows = [row if row["granularity"] == "weight" else rows[2] | row for row in rows]
    for row in rows[:4]:
        row["test_top1"], row["error"] = float("nan"), "ValueError: no"
    lines = curve_table(pd.DataFrame(rows)).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["0", "%", "-", "-", "98.8", "99.0"],
        ["25", "%", "-", "-", "90.0", "100.0"],
    ]
    assert len(lines) == 3 + 4


NETWORK = Trained({}, np.int32(1), np.float32(-1))


def finish(folder, rows):
    files.write_lines(folder / "curve.jsonl", rows)
    stage = Stage(folder, NETWORK, rows)
    return _finish(ExperimentConfig(), folder, [stage], {"macs": 7})


def test_a_run_counts_the_points_that_failed(tmp_path):
    rows = [row | {"error": ""} for row in ROWS]
    del rows[0]["test_top1"]
    rows[0]["error"] = "ValueError: no"
    result = finish(tmp_path, rows)
    assert result.summary["failed_points"] == 1
    assert result.summary["unpruned_test_top1"] == {"batch_norm": 0.99, "none": 0.9876}
    assert failures(result.curve) == ["filters, 0 %, as pruned: ValueError: no"]
    names = {"curve.csv", "curve.png", "summary.json", "SHA256SUMS"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_run_that_could_not_be_measured_at_all_is_not_finished(tmp_path):
    rows = [row | {"error": "ValueError: no"} for row in ROWS]
    with pytest.raises(RunError, match="could be measured; the first: ValueError: no"):
        finish(tmp_path, rows)
    assert list(tmp_path.iterdir()) == []


def test_curve_file_keeps_names_and_numbers(tmp_path):
    path = tmp_path / "curve.csv"
    rows = [*ROWS, ROWS[0] | {"test_loss": float("nan"), "sparsity": 0.1}]
    write_curve(path, rows)
    curve = read_curve(path)
    pd.testing.assert_frame_equal(curve, pd.DataFrame(rows))
    assert curve["recovery"][0] == "none" and np.isnan(curve["test_loss"].iloc[-1])
    assert path.read_text().splitlines()[0] == ",".join(ROWS[0])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("granularities", [["filter"], ["filter", "weight"]])
def test_plot_is_a_png_with_a_panel_per_granularity(tmp_path, granularities):
    curve = pd.DataFrame(ROWS)
    curve = curve[curve["granularity"].isin(granularities)]
    plot_curve(tmp_path / "curve.png", curve, title="a title")
    content = (tmp_path / "curve.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (624 * len(granularities), 504)
    # A blank picture compresses to almost nothing.
    assert len(content) > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_a_plot_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_curve(tmp_path / "curve.png", pd.DataFrame(ROWS), title="a title")
    assert list(tmp_path.iterdir()) == []
