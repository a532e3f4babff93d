"""Points of runs and their statistics, worked out by hand."""

import pandas as pd

from experiments.report.statistics import rows_of, where

PLACE = {"dataset": "digits", "network": "small_cnn", "width": 1.0, "granularity": "filter"}
T_OF_3 = 4.302652729911275
"""The 97.5 % point of Student's t with two degrees of freedom, from a table."""
T_OF_2 = 12.706204736432095
"""The same with one."""


def points(curves, recovery="none", **columns):
    """Points of runs, from ``{(method, seed): {sparsity: accuracy}}``."""
    rows = [
        PLACE
        | {"method": method, "baseline": "none", "seed": seed, "recovery": recovery}
        | {"sparsity": sparsity, "test_top1": accuracy, "error": ""}
        | columns
        for (method, seed), curve in curves.items()
        for sparsity, accuracy in curve.items()
    ]
    return pd.DataFrame(rows)


def only(table, **values):
    """The one line that has these values."""
    (line,) = rows_of(where(table, **values))
    return line


def statistics_of(line):
    """What ``aggregate`` gives."""
    return [line[name] for name in ("mean", "std", "n", "low", "high")]
