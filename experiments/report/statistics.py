"""Statistics of runs that differ in their seed: means, intervals, paired differences, summaries.

All take ``points``, a table with a line for each pruning point of each run: the columns of
``curve.csv``; ``dataset``, ``network`` and ``width``; ``method``, which names the settings of the
run; ``baseline``, the method without regulariser that it is held against (empty if there is none),
see ``finished_runs.baseline_of``; and ``seed``. Runs of one method and one seed must be there once;
they may be measured at other points. Accuracies are fractions.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

PROBLEM = ["dataset", "network", "width"]
"""What methods are compared on."""
CURVE = [*PROBLEM, "method", "granularity", "recovery"]
"""What a curve belongs to, over all seeds."""
NOT_MEASURED = {*CURVE, "seed", "sparsity", "error", "validation_class_top1", "test_class_top1"}
CONFIDENCE = 0.95
AREA_END = 0.6
"""The accuracy is averaged from 0 up to this sparsity."""
TYPICAL = 0.5
"""The sparsity at which classes and calibration are looked at."""
MARGINS = {"within_1": 0.01, "within_5": 0.05}
"""What may be lost of the accuracy of the baseline."""
DIGITS = 6
"""After the point, in every table: what differs beyond is rounding of the machine."""


@functools.lru_cache
def quantile(n: int) -> float:
    """Half the width of the interval of the mean of n numbers, in standard errors: Student's t.

    >>> round(quantile(3), 4)
    4.3027
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) if n > 1 else np.nan


def split(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The parts of a table that are alike in the columns ``by``, each after their values."""
    for key, part in table.groupby(list(by), sort=False):
        yield dict(zip(by, cast(tuple, key), strict=True)), part


def where(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The lines of a table that have these values.

    >>> where(pd.DataFrame({"seed": [0, 1], "n": [7, 8]}), seed=1)["n"].tolist()
    [8]
    """
    chosen = np.logical_and.reduce([table[name] == value for name, value in values.items()])
    return cast(pd.DataFrame, table[chosen])


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table, each by column."""
    return [dict(zip(table.columns, line, strict=True)) for line in table.itertuples(index=False)]


def aggregate(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Statistics of the column ``value``, a line for each group, in order of appearance.

    Args:
      table: numbers; NaN where there is none.
      by: the columns that make a group.

    Returns:
      the columns ``by``; ``mean``; ``std``, of the sample (n - 1); ``n``, how many numbers there
      are; ``low`` and ``high``, the 95 % confidence interval of the mean by Student's t. One
      number has no ``std`` and no interval: NaN.
    """
    values = table.groupby(list(by), sort=False, dropna=False)["value"]
    found = pd.DataFrame({"mean": values.mean(), "std": values.std(), "n": values.count()})
    half = found["n"].map(quantile) * found["std"] / np.sqrt(found["n"].clip(lower=1))
    found["low"], found["high"] = found["mean"] - half, found["mean"] + half
    # Adding zero makes -0.0 a zero.
    return (found.round(DIGITS) + 0).astype({"n": int}).reset_index()


def measures(points: pd.DataFrame) -> list[str]:
    """The names of what was measured or counted at each point, in order.

    >>> measures(pd.DataFrame({"seed": [0], "macs_kept": [0.5], "error": [None], "state": "last"}))
    ['macs_kept']
    """
    numbers = points.select_dtypes("number").columns
    return [str(name) for name in numbers if name not in NOT_MEASURED]


def long_table(points: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A line for each point and each of the measures ``names``: ``measure`` and ``value``."""
    index = [*CURVE, "seed", "sparsity"]
    values = points.set_index(index)[list(names)].astype(float)
    values.columns.name = "measure"
    return values.stack(future_stack=True).to_frame("value").reset_index()  # pyright: ignore


def curve_statistics(points: pd.DataFrame) -> pd.DataFrame:
    """Over the seeds: each measure at each point of each curve, see ``aggregate``.

    A point that failed in some of the runs, or was not asked of them, has a smaller ``n``;
    ``failed`` counts the former.
    """
    by = [*CURVE, "sparsity", "measure"]
    found = aggregate(long_table(points, measures(points)), by)
    failed = points.assign(failed=points["error"] != "").groupby(by[:-1], as_index=False)
    return found.merge(failed.agg({"failed": "sum"}), on=by[:-1], validate="m:1")


def paired_differences(points: pd.DataFrame) -> pd.DataFrame:
    """Of each two methods on the same problem: ``method`` less ``reference``, seed by seed.

    Seeds that only one of them has are left out, and pairs of methods with fewer than two seeds in
    common, of which no interval can be given; ``n`` counts the pairs. Statistics are those of
    ``aggregate``.
    """
    names = [name for name in measures(points) if name.startswith(("validation_", "test_"))]
    numbers = long_table(points, names)
    index = [*CURVE[:-3], "seed", "granularity", "recovery", "sparsity", "measure"]
    parts = []
    for _, problem in split(numbers, PROBLEM):
        of_method = {
            place["method"]: part.drop(columns="method")
            for place, part in split(problem, ["method"])
        }
        for (reference, first), (method, second) in itertools.combinations(of_method.items(), 2):
            pairs = second.merge(first, on=index, suffixes=("", "_reference"), validate="1:1")
            value = pairs["value"] - pairs["value_reference"]
            if len(set(pairs["seed"])) > 1:
                parts.append(pairs.assign(method=method, reference=reference, value=value))
    by = [*PROBLEM, "method", "reference", *index[-4:]]
    if not parts:
        return pd.DataFrame(columns=[*by, "mean", "std", "n", "low", "high"])
    return aggregate(pd.concat(parts), by)


def best_recovery(points: pd.DataFrame) -> pd.DataFrame:
    """The points of each method at each sparsity with its best recovery there, called ``best``.

    By its mean accuracy on validation images; problems of one recovery, or without, are left out.
    """
    parts = [points.iloc[:0]]
    for _, problem in split(points, [*PROBLEM, "granularity"]):
        known = "validation_top1" in problem and problem["validation_top1"].notna().any()
        for _, part in split(problem, ["method", "sparsity"]):
            if known and problem["recovery"].nunique() > 1:
                means = part.groupby("recovery", sort=False)["validation_top1"].mean().fillna(-1)
                parts.append(where(part, recovery=means.idxmax()).assign(recovery="best"))
    return pd.concat(parts)


def recovery_gains(points: pd.DataFrame) -> pd.DataFrame:
    """What each recovery adds to the same pruned networks as they are, seed by seed.

    Statistics are those of ``aggregate``; ``n`` counts the networks that have both points.
    """
    names = [name for name in measures(points) if name.startswith(("validation_", "test_"))]
    numbers = long_table(points, names)
    index = [*CURVE[:-1], "seed", "sparsity", "measure"]
    pruned = where(numbers, recovery="none").drop(columns="recovery")
    mended = numbers[numbers["recovery"] != "none"]
    pairs = mended.merge(pruned, on=index, suffixes=("", "_pruned"), validate="m:1")
    value = pairs["value"] - pairs["value_pruned"]
    return aggregate(pairs.assign(value=value), [*CURVE, "sparsity", "measure"])


def area(sparsity: np.ndarray, accuracy: np.ndarray, end: float = AREA_END) -> float:
    """Mean accuracy over sparsities from 0 to ``end``, with straight lines between the points.

    NaN if the points do not reach from 0 to ``end``, or one of those needed is NaN.

    >>> float(area(np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.0]), end=1.0))
    0.75
    """
    if not len(sparsity) or sparsity[0] > 0 or sparsity[-1] < end:
        return np.nan
    inside = sparsity < end
    x = np.append(sparsity[inside], end)
    y = np.append(accuracy[inside], np.interp(end, sparsity, accuracy))
    return float(np.trapezoid(y, x) / end)


def largest_sparsity(sparsity: np.ndarray, accuracy: np.ndarray, least: float) -> float:
    """The largest sparsity that was tried whose accuracy is ``least`` or more; NaN if none is.

    >>> largest_sparsity(np.array([0.0, 0.5, 0.9]), np.array([0.9, 0.8, 0.1]), least=0.8)
    0.5
    """
    good = sparsity[accuracy >= least - 1e-9]  # 0.98 - 0.01 is not 0.97 in binary
    return float(good.max()) if len(good) else np.nan


def class_losses(points: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy that each class loses between sparsity 0 and 0.5, see ``aggregate``.

    A line for each curve and ``class`` (its number), of the runs that were measured at both; a loss
    is against the same network unpruned and mended in the same way, and negative if it is a gain.
    """
    found = [
        place | {"class": number, "value": value}
        for place, curve in split(points, [*CURVE, "seed"])
        for number, value in enumerate(_losses_of_run(curve))
    ]
    table = pd.DataFrame(found, columns=[*CURVE, "seed", "class", "value"])
    return aggregate(table.astype({"value": float}), [*CURVE, "class"])


def _losses_of_run(curve: pd.DataFrame) -> np.ndarray:
    """[classes] of one curve of one run, NaN where there is no number; [0] without accuracies."""
    texts = [_cell(curve, "test_class_top1", sparsity) for sparsity in (0, TYPICAL)]
    if not all(isinstance(text, str) for text in texts):
        return np.array([])
    unpruned, pruned = (
        np.array([float(part or "nan") for part in text.split(";")]) for text in texts
    )
    return unpruned - pruned


def _cell(curve: pd.DataFrame, name: str, sparsity: float) -> Any:
    """Of one curve of one run; NaN if there is none."""
    if name not in curve:
        return np.nan
    found = curve[name].to_numpy()[curve["sparsity"].to_numpy() == sparsity]
    return found[0] if len(found) else np.nan


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """What a curve comes to: a line for each curve and number, with the columns of ``aggregate``.

    Over the seeds: ``top1_at_0``; ``mean_top1_to_60``, see ``area``, and the same on the validation
    set, to choose by; ``class_loss_at_50``, the largest loss of any class, see ``class_losses``;
    ``ece`` and ``loss``, ``_at_0`` and ``_at_50``. Of the mean curve, hence without deviation:
    ``within_1`` and ``within_5``, the largest sparsity at which the accuracy is at most so many
    points below that of the baseline, unpruned and unmended (a mean as well). The baseline is the
    method without regulariser that is best on validation images, see
    ``finished_runs.baseline_of``: not the one with the same weight decay, which a regulariser may
    need otherwise. All others on the test set.
    """
    rows = [
        place | {"number": number, "value": value}
        for place, curve in split(points, [*CURVE, "seed"])
        for number, value in _numbers_of_run(curve.sort_values("sparsity")).items()
    ]
    found = aggregate(pd.DataFrame(rows), [*CURVE, "number"])
    margins = pd.DataFrame(_margins(points), columns=list(found.columns)).astype({"n": int})
    both = pd.concat([found, margins], ignore_index=True)
    order = {tuple(place.values()): i for i, (place, _) in enumerate(split(found, CURVE))}
    position = [order[key] for key in both[CURVE].itertuples(index=False, name=None)]
    return both.iloc[np.argsort(position, kind="stable")].reset_index(drop=True)


def _numbers_of_run(curve: pd.DataFrame) -> dict[str, float]:
    """Of one curve of one run, sorted by sparsity."""

    def at(name: str, sparsity: float) -> float:
        return float(_cell(curve, name, sparsity))

    def mean_to_60(name: str) -> float:
        if name not in curve:
            return np.nan
        return area(curve["sparsity"].to_numpy(), curve[name].to_numpy(float))

    losses = _losses_of_run(curve)
    return {
        "top1_at_0": at("test_top1", 0),
        "mean_top1_to_60": mean_to_60("test_top1"),
        "mean_validation_top1_to_60": mean_to_60("validation_top1"),
        "class_loss_at_50": np.nanmax(losses) if np.isfinite(losses).any() else np.nan,
        "ece_at_0": at("test_ece", 0),
        "ece_at_50": at("test_ece", TYPICAL),
        "loss_at_0": at("test_loss", 0),
        "loss_at_50": at("test_loss", TYPICAL),
    }


def _margins(points: pd.DataFrame) -> list[dict]:
    """The lines of ``within_1`` and ``within_5``."""
    by = [*CURVE, "baseline", "sparsity"]
    means = aggregate(points.assign(value=points["test_top1"].astype(float)), by)
    rows = []
    # The mean of the seeds that are left is no point of this curve.
    means["mean"] = means["mean"].where(means["n"] == means.groupby(CURVE)["n"].transform("max"))
    unpruned = where(means, sparsity=0, recovery="none").dropna(subset="mean")
    # Where nothing is removed, it does not matter of what: filters will do for weights.
    unpruned = unpruned.drop_duplicates([*PROBLEM, "method"])
    for place, curve in split(means, [*CURVE, "baseline"]):
        baseline = {name: place[name] for name in PROBLEM} | {"method": place.pop("baseline")}
        reference = where(unpruned, **baseline)["mean"].tolist() or [np.nan]
        for number, margin in MARGINS.items():
            least = reference[0] - margin
            value = largest_sparsity(curve["sparsity"].to_numpy(), curve["mean"].to_numpy(), least)
            rows.append(place | {"number": number, "mean": value, "n": curve["n"].max()})
    return rows
