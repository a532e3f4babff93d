"""What a comparison comes to, in a few lines: who is ahead, by how much, and how sure that is."""

import documents
import pandas as pd
from finished_runs import make_run, statistics

from bbo.pipeline.curve_file import read_curve
from experiments.report import program
from experiments.report.finished_runs import find_runs, grouped, points_of
from experiments.report.verdict import verdict

SHARES = {"sparsities": (0.0, 0.5, 0.7), "granularity": ("filter",)}


def lines_of(tmp_path, *settings):
    """The verdict on runs of one problem without a best recovery."""
    groups, _ = statistics(tmp_path, *settings)
    return of_groups(groups)


def of_groups(groups):
    records, chosen = program.statistics_of(points_of(groups))
    return verdict(groups, records | chosen).splitlines()


def test_a_report_ends_with_six_lines(tmp_path):
    for seed in (0, 1):
        shift = seed / 100
        for noise, accuracies in (
            ("none", (0.9, 0.5 + shift, 0.2)),
            ("dropout", (0.9, 0.6 + shift, 0.5 + shift)),
            ("batch_bridgeout", (0.8, 0.6 + 2 * shift, 0.7 + shift)),
        ):
            make_run(
                tmp_path / "runs" / f"{noise}{seed}", accuracies, **SHARES, **named(noise, seed)
            )
    out = tmp_path / "out"
    text, paths = program.write_report(find_runs([tmp_path / "runs"]), out)
    assert text.splitlines() + program.places_text(paths) == [
        "small_cnn on digits: test accuracy, filters removed, as pruned (mean of 2 runs)",
        "   0 % removed: none has 90.0 %, 0.0 [+0.0, +0.0] points more than dropout (too close to "
        "call)",
        # Half the width: 12.706 (t, one degree of freedom) times 0.005.
        "  50 % removed: batch_bridgeout has 61.0 %, 0.5 [-5.9, +6.9] points more than dropout "
        "(too close to call), 10.5 [+4.1, +16.9] points more than none",
        "  70 % removed: batch_bridgeout has 70.5 %, 20.0 [+20.0, +20.0] points more than dropout, "
        "50.5 [+44.1, +56.9] points more than none",
        f"Figures: {out}/digits_small_cnn_removed.png",
        f"Tables: {out}/summary.md curves.csv differences.csv gains.csv classes.csv summary.csv",
    ]


def named(noise, seed):
    return {"noise": noise, "seed": seed}


def test_each_method_counts_with_its_best_recovery(tmp_path):
    for noise, best in (("none", 0.95), ("dropout", 0.6)):
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{noise}{seed}"
            make_run(folder, (0.9, 0.5, 0.4), **SHARES, **named(noise, seed))
            curve = read_curve(folder / "curve.csv")
            mended = curve.assign(recovery="batch_norm", test_top1=best, validation_top1=best)
            pd.concat([curve, mended]).to_csv(folder / "curve.csv", index=False)
    text, paths = program.write_report(find_runs([tmp_path / "runs"]), tmp_path / "out")
    heading, _, half, _ = text.splitlines()
    assert heading.endswith("filters removed, each method with its best recovery (mean of 2 runs)")
    lead = "35.0 [+35.0, +35.0] points more than dropout"
    assert half == f"  50 % removed: none has 95.0 %, {lead}"
    assert "best.png" in program.places_text(paths)[0].split()[1]


def test_one_seed_has_no_interval_and_one_method_no_rival(tmp_path):
    both = [{"noise": noise, **SHARES} for noise in ("none", "dropout")]
    both[1]["accuracies"] = (0.9, 0.8, 0.6)
    heading, *_, last = lines_of(tmp_path / "both", *both)
    assert heading.endswith("(one run each)")
    lead = "10.0 points more than none (too few seeds to tell)"
    assert last == f"  70 % removed: dropout has 60.0 %, {lead}"
    assert lines_of(tmp_path / "alone", both[0])[1:] == [
        "   0 % removed: none has 90.0 %",
        "  50 % removed: none has 80.0 %",
        "  70 % removed: none has 50.0 %",
    ]


def test_of_other_shares_the_first_and_the_last_are_told(tmp_path):
    points = {"sparsities": (0.1, 0.3, 0.4), "granularity": ("weight",)}
    heading, *lines = lines_of(tmp_path, {"noise": "none", **points})
    assert "weights removed" in heading
    assert lines == ["  10 % removed: none has 90.0 %", "  40 % removed: none has 50.0 %"]


def test_a_study_says_how_large_a_lead_is_by_name(tmp_path):
    runs = [{"noise": "none", "seed": seed, **SHARES} for seed in (0, 1)]
    runs += [
        {"noise": "dropout", "seed": seed, "rate": rate, "accuracies": (0.9, 0.8, 0.5 + rate)}
        | SHARES
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    *_, last = lines_of(tmp_path, *runs)
    first = "dropout rate=0.2 has 70.0 %, 10.0 [+10.0, +10.0] points more than dropout rate=0.1"
    assert last == f"  70 % removed: {first}, 20.0 [+20.0, +20.0] points more than none"


def test_the_page_of_experiments_shows_the_verdict_of_make_run():
    groups = grouped(find_runs([documents.ROOT / "experiments/results/digits"]).runs)
    shown = "\n".join(of_groups(groups))
    page = documents.text_of(documents.ROOT / "docs/experiments.md")
    assert f"```\n{shown}\nFigures: " in page
