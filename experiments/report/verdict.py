"""What a comparison comes to, in a few lines for people."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from bbo.pipeline.curve_file import percent, recovery_text
from experiments.report import figures
from experiments.report.chapters import problem_text
from experiments.report.finished_runs import Method, baseline_of
from experiments.report.statistics import rows_of, where

SHARES = (0.0, 0.5, 0.7)
"""At which it is told who is ahead, as far as they were measured."""


class Compared(NamedTuple):
    """The statistics of one problem that a verdict is made of: one granularity and recovery."""

    curves: pd.DataFrame
    differences: pd.DataFrame
    granularity: str
    recovery: str


def verdict(groups: Sequence[Method], found: Mapping[str, pd.DataFrame]) -> str:
    """Who is ahead in one problem: a line of what is compared, and a line for each share.

    Each method counts with its best recovery, where that is known; else all as pruned, or with the
    first recovery there is. A lead whose interval holds zero is too close to call.

    Args:
      groups: the methods of the problem.
      found: its statistics, as ``chapters.chapter`` takes them.
    """
    compared = _compared(found)
    curves = where(compared.curves, measure="test_top1").dropna(subset="mean")
    measured = sorted(set(curves["sparsity"]))
    shares = [share for share in SHARES if share in measured]
    if len(shares) < 2:
        shares = sorted({*measured[:1], *measured[-1:]})
    best = compared.recovery == "best"
    how = "each method with its best recovery" if best else recovery_text(compared.recovery)
    counts = figures.runs_text([len(group.runs) for group in groups]).partition(",")[0]
    heading = f"{problem_text(groups[0])}: test accuracy, {compared.granularity}s removed, {how}"
    lines = [f"{heading} ({counts})"]
    baselines = {group.method: baseline_of(group, groups) for group in groups}
    for share in shares:
        here = rows_of(where(curves, sparsity=share).sort_values("mean", ascending=False))
        means = {row["method"]: row["mean"] for row in here}
        first, *others = means
        rivals = dict.fromkeys([*others[:1], baselines[first]])
        leads = [
            lead_text(_lead(compared.differences, share, means, (first, rival)), rival)
            for rival in rivals
            if rival in others
        ]
        text = ", ".join([f"{first} has {100 * means[first]:.1f} %", *leads])
        lines.append(f"  {percent(share):>4} removed: {text}")
    return "\n".join(lines)


def _compared(found: Mapping[str, pd.DataFrame]) -> Compared:
    granularities = list(found["curves"]["granularity"].unique())
    granularity = "filter" if "filter" in granularities else granularities[0]
    names = ("best", "best_differences", "curves", "differences")
    best, best_differences, curves, differences = (
        where(found[name], granularity=granularity) for name in names
    )
    if len(best):
        return Compared(best, best_differences, granularity, "best")
    recoveries = list(curves["recovery"].unique())
    recovery = "none" if "none" in recoveries else recoveries[0]
    curves, differences = (where(table, recovery=recovery) for table in (curves, differences))
    return Compared(curves, differences, granularity, recovery)


def _lead(
    differences: pd.DataFrame, share: float, means: Mapping[str, float], pair: tuple[str, str]
) -> tuple[float, float, float]:
    """How far the first of a pair is ahead, and the interval of that: NaN if there is none."""
    here = where(differences, measure="test_top1", sparsity=share)
    for (method, reference), sign in ((pair, 1), (pair[::-1], -1)):
        for row in rows_of(where(here, method=method, reference=reference)):
            limits = sorted((sign * row["low"], sign * row["high"]))
            return sign * row["mean"], limits[0], limits[1]
    return means[pair[0]] - means[pair[1]], math.nan, math.nan


def lead_text(lead: tuple[float, float, float], rival: str) -> str:
    """A lead in points with its interval, and whether it is one.

    >>> lead_text((0.021, 0.018, 0.025), "CrAM+")
    '2.1 [+1.8, +2.5] points more than CrAM+'
    >>> lead_text((0.004, -0.003, 0.011), "dropout")
    '0.4 [-0.3, +1.1] points more than dropout (too close to call)'
    >>> lead_text((0.004, math.nan, math.nan), "none")
    '0.4 points more than none (too few seeds to tell)'
    """
    mean, low, high = (round(100 * value, 1) + 0 for value in lead)  # -0.0 is zero
    if math.isnan(low):
        return f"{mean:.1f} points more than {rival} (too few seeds to tell)"
    doubt = "" if low > 0 else " (too close to call)"
    return f"{mean:.1f} [{low:+.1f}, {high:+.1f}] points more than {rival}{doubt}"
