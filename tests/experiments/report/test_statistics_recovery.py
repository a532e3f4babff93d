"""What recoveries add, and which of them is best, by hand."""

import numpy as np
import pandas as pd
import pytest
from by_hand import T_OF_2, only, points, statistics_of

from experiments.report.statistics import best_recovery, recovery_gains


def test_gains_of_recovery_by_hand():
    pruned = points({("none", 0): {0.5: 0.5}, ("none", 1): {0.5: 0.25}, ("dropout", 0): {0.5: 0.5}})
    mended = points(
        {
            ("none", 1): {0.5: 0.75},
            ("none", 0): {0.5: 0.75},
            ("none", 2): {0.5: 1.0},  # not measured as pruned
            ("dropout", 0): {0.5: 0.25, 0.9: 0.125},
        }
    ).assign(recovery="batch_norm")
    found = recovery_gains(pd.concat([pruned, mended, pruned.iloc[:0]]))
    line = only(found, method="none")
    half = 0.125 * T_OF_2  # std / sqrt(2)
    assert (line["recovery"], line["sparsity"]) == ("batch_norm", 0.5)
    assert statistics_of(line) == pytest.approx(
        [0.375, np.sqrt(2) * 0.125, 2, 0.375 - half, 0.375 + half], abs=1e-6
    )
    assert only(found, method="dropout")["mean"] == -0.25  # recovery can harm
    assert recovery_gains(pruned).empty


def test_each_method_has_its_own_best_recovery_by_validation_images():
    def both(recovery, of_none, of_dropout, validation):
        curves = {("none", 0): of_none, ("none", 1): of_none, ("dropout", 0): of_dropout}
        table = points(curves, recovery)
        values = table["method"].map(validation) + 0.1 * table["seed"]
        return table.assign(validation_top1=values)

    one = both("none", {0.0: 0.9, 0.5: 0.5}, {0.5: 0.25}, {"none": 0.5, "dropout": 0.5})
    other = both("batch_norm", {0.0: 0.8, 0.5: 0.75}, {0.5: 0.125}, {"none": 0.4, "dropout": 0.6})
    found = best_recovery(pd.concat([one, other], ignore_index=True))
    assert set(found["recovery"]) == {"best"}
    # By validation, which says otherwise than the test images.
    values = found.set_index(["method", "seed", "sparsity"])["test_top1"].to_dict()
    assert values == {
        ("none", 0, 0.0): 0.9,
        ("none", 1, 0.0): 0.9,
        ("none", 0, 0.5): 0.5,
        ("none", 1, 0.5): 0.5,
        ("dropout", 0, 0.5): 0.125,
    }
    assert best_recovery(one).empty
    assert best_recovery(pd.concat([one, other]).drop(columns="validation_top1")).empty
