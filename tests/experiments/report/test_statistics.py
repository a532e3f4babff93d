"""Statistics over seeds, each against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from by_hand import T_OF_2, T_OF_3, only, points, statistics_of

from experiments.report.statistics import (
    aggregate,
    area,
    class_losses,
    curve_statistics,
    largest_sparsity,
    paired_differences,
    summary,
)


def test_interval_by_hand():
    table = pd.DataFrame({"group": "aaab", "value": [1.0, 2.0, 3.0, 7.0]} | {"group": list("aaab")})
    found = aggregate(table, ["group"])
    half = T_OF_3 / np.sqrt(3)
    assert statistics_of(only(found, group="a")) == pytest.approx(
        [2, 1, 3, 2 - half, 2 + half], abs=1e-6
    )
    one = statistics_of(only(found, group="b"))
    assert one[0] == 7 and one[2] == 1 and np.isnan([one[1], one[3], one[4]]).all()


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    trials = 2000
    values = np.random.default_rng(0).standard_normal((trials, 3))
    table = pd.DataFrame({"trial": np.repeat(np.arange(trials), 3), "value": values.ravel()})
    found = aggregate(table, ["trial"])
    share = ((found["low"] < 0) & (found["high"] > 0)).mean()
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials)


def test_statistics_of_curves_count_what_failed():
    runs = points({("none", 0): {0.0: 0.5, 0.5: 0.25}, ("none", 1): {0.0: 0.75, 0.5: np.nan}})
    runs.loc[3, "error"] = "out of memory"
    found = curve_statistics(runs)
    assert list(found["measure"].unique()) == ["test_top1"]
    whole, half = only(found, sparsity=0.0), only(found, sparsity=0.5)
    assert (whole["mean"], whole["n"], whole["failed"]) == (0.625, 2, 0)
    assert (half["mean"], half["n"], half["failed"]) == (0.25, 1, 1) and np.isnan(half["std"])


def test_a_point_that_failed_in_all_runs_keeps_its_line():
    runs = points({("none", 0): {0.0: 0.5, 0.5: np.nan}}).assign(macs_kept=[1.0, 0.5])
    runs["test_class_top1"] = np.nan
    runs.loc[1, "error"] = "out of memory"
    found = curve_statistics(runs)
    assert list(found["measure"]) == ["test_top1", "macs_kept"] * 2
    line = only(found, sparsity=0.5, measure="test_top1")
    assert (line["n"], line["failed"]) == (0, 1) and np.isnan(line["mean"])


def test_paired_differences_by_hand():
    runs = points(
        {
            ("none", 0): {0.5: 0.5},
            ("none", 1): {0.5: 0.6},
            ("none", 2): {0.5: 0.7},
            ("dropout", 2): {0.5: 1.0},
            ("dropout", 0): {0.5: 0.6},
            ("dropout", 1): {0.5: 0.8},
            ("dropout", 3): {0.5: 0.0},  # nothing to be compared with
        }
    )
    found = paired_differences(runs.assign(macs_kept=0.5))
    line = only(found, method="dropout", reference="none")
    half = 0.1 * T_OF_3 / np.sqrt(3)
    assert statistics_of(line) == pytest.approx([0.2, 0.1, 3, 0.2 - half, 0.2 + half], abs=1e-6)
    assert list(found["measure"]) == ["test_top1"]


def test_differences_are_within_a_problem_and_one_method_has_none():
    runs = points({("none", 0): {0.0: 1.0}})
    assert paired_differences(runs).empty
    other = points({("dropout", 0): {0.0: 0.5}}).assign(network="vgg16")
    assert paired_differences(pd.concat([runs, other])).empty


def test_no_differences_of_methods_with_a_single_seed_in_common():
    runs = points({("none", 0): {0.0: 1.0}, ("dropout", 0): {0.0: 0.5}, ("dropout", 1): {0.0: 0.5}})
    assert paired_differences(runs).empty
    failed = points({(m, s): {0.0: 1.0 if s else np.nan} for m in ("none", "x") for s in (0, 1)})
    assert paired_differences(failed)["n"].tolist() == [1]  # that a point failed is told


def test_a_seed_that_is_there_twice_is_refused():
    runs = points({("none", 0): {0.0: 1.0}, ("dropout", 0): {0.0: 0.5}})
    with pytest.raises(pd.errors.MergeError):
        paired_differences(pd.concat([runs, runs]))


@pytest.mark.parametrize(
    ("sparsity", "accuracy", "expected"),
    [
        ([0.0, 0.6], [1.0, 0.5], 0.75),
        # (0.4 * (1 + 0.8) / 2 + 0.2 * (0.8 + 0.6) / 2) / 0.6; at 0.6 half-way from 0.8 to 0.4.
        ([0.0, 0.4, 0.8], [1.0, 0.8, 0.4], 0.5 / 0.6),
        ([0.0, 0.3, 0.6, 0.9], [1.0, 1.0, 1.0, np.nan], 1.0),
        ([0.0, 0.3, 0.6], [1.0, np.nan, 1.0], np.nan),
        ([0.0, 0.5], [1.0, 1.0], np.nan),
        ([0.1, 0.9], [1.0, 1.0], np.nan),
    ],
)
def test_area_by_hand(sparsity, accuracy, expected):
    found = area(np.array(sparsity), np.array(accuracy))
    assert found == pytest.approx(expected, nan_ok=True)


def test_largest_sparsity_by_hand():
    sparsity = np.array([0.0, 0.3, 0.5, 0.9])
    accuracy = np.array([0.98, 0.97, 0.93, np.nan])
    assert largest_sparsity(sparsity, accuracy, 0.98 - 0.01) == 0.3
    assert largest_sparsity(sparsity, accuracy, 0.98 - 0.05) == 0.5
    assert np.isnan(largest_sparsity(sparsity, accuracy, 0.99))
    assert np.isnan(largest_sparsity(sparsity, accuracy, np.nan))


def by_class(*texts):
    """Points of runs, from what each has by class unpruned and with half removed."""
    runs = points({("none", seed): {0.0: 0.5, 0.5: 0.5} for seed in range(len(texts))})
    runs["test_class_top1"] = [text for both in texts for text in both]
    return runs


def test_losses_of_classes_by_hand():
    runs = by_class(("1;0.75;0.5", "0.75;0.25;0.75"), ("1;;0.5", "0.5;0.25;"))
    found = class_losses(runs)
    assert found["class"].tolist() == [0, 1, 2]
    half = 0.125 * T_OF_2
    line = only(found, **{"class": 0})
    assert statistics_of(line) == pytest.approx(
        [0.375, 0.25 / np.sqrt(2), 2, 0.375 - half, 0.375 + half], abs=1e-6
    )
    # What is not known of one seed does not count.
    assert [only(found, **{"class": i})["mean"] for i in (1, 2)] == [0.5, -0.25]
    assert found["n"].tolist() == [2, 1, 1]


def test_losses_of_classes_need_both_points():
    runs = by_class(("1;1", "0.5;0.75"), ("1;1", None))
    assert class_losses(runs)["n"].tolist() == [1, 1]
    for without in (by_class(("1;1", None)), points({("none", 0): {0.0: 1.0}})):
        found = class_losses(without)
        assert found.empty and "mean" in found


@pytest.mark.parametrize(
    ("unpruned", "pruned", "expected"),
    [
        ("1;0.9;0.5", "0.9;0.5;0.75", 0.4),
        ("0.5;0.5", "0.75;1", -0.25),
        ("1;;0.5", "0.9;0.1;", 0.1),
        (";", "1;1", np.nan),
    ],
)
def test_largest_loss_of_a_class_by_hand(unpruned, pruned, expected):
    found = summary(by_class((unpruned, pruned)))
    mean = only(found, number="class_loss_at_50")["mean"]
    assert mean == pytest.approx(expected, nan_ok=True)


def test_summary_by_hand():
    runs = points(
        {
            ("none", 0): {0.0: 0.98, 0.5: 0.3, 0.7: 0.1},
            ("none", 1): {0.0: 1.00, 0.5: 0.5, 0.7: 0.3},
            ("dropout", 0): {0.0: 0.99, 0.5: 0.97, 0.7: 0.96},
            ("dropout", 1): {0.0: 0.99, 0.5: 0.99, 0.7: 0.92},
        }
    )
    runs["test_loss"] = runs["sparsity"]
    runs["test_ece"] = 2 * runs["sparsity"]
    runs["test_class_top1"] = ["1;0.5", "0.75;0.5", "0;0"] * 3 + ["1;1", "1;0.25", "0;0"]
    found = summary(runs)
    assert list(found["method"].unique()) == ["none", "dropout"]

    def mean(method, number):
        return only(found, method=method, number=number)["mean"]

    # The baseline, 99 % on average, against the means 98 % and 94 %.
    assert (mean("dropout", "within_1"), mean("dropout", "within_5")) == (0.5, 0.7)
    assert (mean("none", "within_1"), mean("none", "within_5")) == (0.0, 0.0)
    assert np.isnan(only(found, method="dropout", number="within_1")["std"])
    # By trapezia to 0.5, and from there to half-way between 0.5 and 0.7.
    areas = [
        (0.5 * (0.99 + at_50) / 2 + 0.1 * (at_50 + (at_50 + at_70) / 2) / 2) / 0.6
        for at_50, at_70 in ((0.97, 0.96), (0.99, 0.92))
    ]
    line = only(found, method="dropout", number="mean_top1_to_60")
    assert line["mean"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert line["std"] == pytest.approx(np.std(areas, ddof=1), abs=1e-6)
    assert mean("dropout", "class_loss_at_50") == (0.25 + 0.75) / 2
    assert (mean("none", "ece_at_0"), mean("none", "ece_at_50")) == (0.0, 1.0)
    assert (mean("none", "loss_at_0"), mean("none", "loss_at_50")) == (0.0, 0.5)
    assert statistics_of(only(found, method="none", number="top1_at_0"))[:3] == pytest.approx(
        [0.99, 0.02 / np.sqrt(2), 2], abs=1e-6
    )


def test_the_baseline_is_as_pruned_and_may_be_missing():
    curves = {("none", 0): {0.0: 0.9, 0.5: 0.9}, ("dropout", 0): {0.0: 0.9, 0.5: 0.88}}
    mended = {key: {s: a - 0.05 for s, a in curve.items()} for key, curve in curves.items()}
    both = pd.concat([points(curves), points(mended, recovery="batch_norm")])
    found = summary(both)
    line = only(found, method="dropout", recovery="batch_norm", number="within_5")
    assert line["mean"] == 0.0  # 85 % against 90 %
    alone = summary(both.assign(baseline=""))
    assert np.isnan(only(alone, method="dropout", recovery="none", number="within_5")["mean"])
    # Where nothing is removed, filters are as good as weights.
    weights = points(curves).query("method == 'dropout'").assign(granularity="weight")
    found = summary(pd.concat([points(curves), weights]))
    assert only(found, granularity="weight", number="within_5")["mean"] == 0.5
    old = summary(points(curves))  # without calibration and classes
    assert np.isnan(only(old, method="none", number="ece_at_0")["mean"])
    assert np.isnan(only(old, method="none", number="class_loss_at_50")["mean"])


def test_a_mean_without_the_seed_that_failed_is_within_nothing():
    curves = {("none", 0): {0.0: 0.9, 0.5: 0.9}, ("none", 1): {0.0: 0.9, 0.5: np.nan}}
    found = summary(points(curves))
    assert only(found, number="within_5")["mean"] == 0.0
