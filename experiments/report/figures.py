"""The figures of a comparison: accuracy against what is removed or kept, with intervals."""

import hashlib
import itertools
import json
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bbo.pipeline.curve_file import recovery_text
from experiments.report.statistics import CURVE, split, where

COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#E69F00", "#000000")
"""Okabe and Ito's, told apart by the colour-blind; but for the yellow, too light for lines."""
COLOUR_OF = {
    "none": "#000000",
    "dropout": "#E69F00",
    "batch_bridgeout": "#0072B2",
    "nested_dropping": "#009E73",
    "recipe": "#009E73",  # which is nested dropping
    "CrAM+": "#CC79A7",
    "dropconnect": "#56B4E9",
    "targeted_dropout": "#D55E00",
}
"""Of methods, by their name or its first word: the same in every figure."""
MARKERS = "os^DvPX*"
DASHES = ("-", "-.", ":")
"""Solid as far as the colours go, then the others; ``--`` is the paper's."""
DIGITS = 6
"""After the point, of a number that is compared."""
BAND = 0.09
"""Opacity of an interval: several may lie over each other, and the lines are to be seen."""
FEWEST = 3
"""Runs, for an interval to be drawn: of two it is more than twelve standard errors wide."""
LETTERS = 12
"""On an inch of a line of text, about; 8 of them for the line of a legend's entry."""
LEGEND_LINE = 0.22
"""Height in inches."""


class Axis(NamedTuple):
    """What accuracy is drawn against."""

    short: str
    """What it is, in two words."""
    measure: str
    """A column of the curve: a share."""
    label: str
    """``{units}`` stands for filters, kernels or weights."""
    falls: bool
    """Whether it falls as more is pruned, so that the axis runs the other way."""


AXES = {
    "removed": Axis("what is removed", "achieved_sparsity", "{units} removed (%)", False),
    "macs": Axis(
        "multiply-adds kept",
        "macs_kept",
        "multiply-adds kept (%): those whose weight is not set to zero\n"
        "(what the next layer need not read is not counted)",
        True,
    ),
    "params": Axis(
        "parameters kept",
        "params_kept",
        "parameters kept (%): those not set to zero\n(the arrays are as large as before)",
        True,
    ),
    "compact": Axis(
        "multiply-adds left without dead channels",
        "macs_compact",
        "multiply-adds left (%) once the channels that\ncarry nothing have been cut out",
        True,
    ),
}
"""Which of them are drawn: see ``distinct_axes``."""


SAME = 0.02
"""Shares that differ by no more look the same in a figure."""


def distinct_axes(statistics: pd.DataFrame) -> list[str]:
    """The names of the axes that were measured and show what no axis before them shows.

    Where filters of all layers go alike, the multiply-adds and parameters that are kept mirror the
    filters that are removed.
    """
    kept: dict[str, pd.Series] = {}
    for name, axis in AXES.items():
        measured = where(statistics, measure=axis.measure).dropna(subset="mean")
        shares = measured.set_index([*CURVE, "sparsity"])["mean"]
        shares = shares if axis.falls else 1 - shares
        shown = any((shares - other).abs().max() <= SAME for other in kept.values())
        if len(shares) and not shown:
            kept[name] = shares
    return list(kept)


def comparison_figure(
    statistics: pd.DataFrame,
    axis: Axis,
    *,
    title: str,
    published: pd.DataFrame | None = None,
    noise_of: Mapping[str, str] | None = None,
) -> Figure:
    """Mean test accuracy with its 95 % interval, a panel for each granularity and recovery.

    Granularities that do not move along the axis are left out.

    Args:
      statistics: of one problem, from ``statistics.curve_statistics``.
      axis: one of ``AXES``.
      title: above all panels.
      published: curves to lay over the panel of filters as pruned, dashed: ``method``,
        ``percent_filters_pruned`` and ``accuracy_mean`` (%).
      noise_of: the regulariser of each method, by which its published curve gets its colour.
    """
    granularities, recoveries = moving(statistics, axis), list(statistics["recovery"].unique())
    shape = len(granularities), len(recoveries)
    size = max(7, 5.2 * shape[1]), 0.7 + 3.9 * shape[0]
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(*shape, squeeze=False, sharey=True)
    styles = styles_of(list(statistics["method"].unique()))
    for granularity, row in zip(granularities, panels, strict=True):
        for recovery, panel in zip(recoveries, row, strict=True):
            part = where(statistics, granularity=granularity, recovery=recovery)
            draw_curves(panel, part, axis, styles)
            if published is not None and (granularity, recovery) == ("filter", "none"):
                draw_published(panel, published, styles, noise_of or {})
            panel.set_title(f"{granularity}s, {recovery_text(recovery)}", fontsize=10)
            panel.set(xlabel=axis.label.format(units=f"{granularity}s"), ylim=(0, 102))
            panel.grid(alpha=0.3)
            panel.set_xlim(*((103, -3) if axis.falls else (-3, 103)))
        row[0].set_ylabel("test accuracy (%)")
    _add_legend_and_title(figure, title)
    return figure


def moving(statistics: pd.DataFrame, axis: Axis) -> list[str]:
    """The granularities whose curves move along an axis; all where none does.

    Single weights, for instance, leave no channel without a use.
    """
    shares = where(statistics, measure=axis.measure).groupby("granularity", sort=False)["mean"]
    spread = shares.max() - shares.min()
    return list(spread.index[spread > SAME]) or list(spread.index)


def _add_legend_and_title(figure: Figure, title: str) -> None:
    shown = legend_of(figure.get_axes())
    labels, width = list(shown), figure.get_figwidth()
    columns = min(len(labels), max(1, int(LETTERS * width / (max(map(len, labels)) + 8))))
    figure.legend(shown.values(), labels, loc="outside lower center", ncols=columns, handlelength=3)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * math.ceil(len(labels) / columns))
    lines = [textwrap.fill(line, int(LETTERS * width)) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=11)


def legend_of(panels: Iterable[Axes]) -> dict[str, Any]:
    """What stands for each curve in the legend, by its label: of all panels, each once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def styles_of(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a kind of line for each method, no two of them alike.

    Methods of ``COLOUR_OF`` have their colour; the others take what is left, in order.
    """
    turns = range(len(methods) // (len(COLOURS) * len(DASHES)) + 1)
    free = list(itertools.product(turns, DASHES, range(len(COLOURS))))
    looks = {}
    for name_of in (str, lambda method: method.split()[0]):
        for method in methods:
            colour = COLOUR_OF.get(name_of(method))
            own = (0, DASHES[0], COLOURS.index(colour)) if colour else None
            if method not in looks and own in free:
                looks[method] = free.pop(free.index(own))
    looks |= {method: free.pop(0) for method in methods if method not in looks}
    return {
        method: {
            "color": COLOURS[colour],
            "marker": MARKERS[(colour + turn) % len(MARKERS)],
            "linestyle": dash,
        }
        for method, (turn, dash, colour) in looks.items()
    }


def runs_text(counts: Collection[int]) -> str:
    """What a curve is the mean of.

    >>> runs_text([1, 1]), runs_text([3, 2])
    ('one run each', 'mean of 2 to 3 runs, shaded from 3 on: 95 % interval of the mean')
    """
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one run each"
    number = str(most) if fewest == most else f"{fewest} to {most}"
    if most < FEWEST:
        return f"mean of {number} runs"
    of_some = "" if fewest >= FEWEST else f" from {FEWEST} on"
    return f"mean of {number} runs, shaded{of_some}: 95 % interval of the mean"


def fingerprint(figure: Figure) -> str:
    """A digest of the points of all lines, by panel and label: whatever draws them, it is the same.

    ``experiments.report`` keeps it in its pictures, to tell if they are of these numbers.
    """
    lines = [
        (
            panel.get_title(),
            str(line.get_label()),
            np.asarray(line.get_xydata()).round(DIGITS).tolist(),
        )
        for panel in figure.get_axes()
        for line in panel.lines
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def draw_curves(
    panel: Axes, statistics: pd.DataFrame, axis: Axis, styles: Mapping[str, dict[str, Any]]
) -> None:
    """A line and its interval for each method; a point that failed in all runs is a gap."""
    by_sparsity = statistics.sort_values("sparsity", kind="stable")  # runs may have other points
    for place, curve in split(by_sparsity, ["method"]):
        accuracy = where(curve, measure="test_top1")
        x = 100 * where(curve, measure=axis.measure)["mean"].to_numpy()
        style = styles[place["method"]]
        panel.plot(
            x, 100 * accuracy["mean"], label=place["method"], markersize=4, linewidth=1.4, **style
        )
        # Outside of what accuracies can be, the interval says nothing.
        limits = accuracy[["low", "high"]].where(accuracy["n"] >= FEWEST).clip(0, 1)
        low, high = 100 * limits.to_numpy().T
        panel.fill_between(x, low, high, color=style["color"], alpha=BAND, linewidth=0)


def draw_published(
    panel: Axes,
    published: pd.DataFrame,
    styles: Mapping[str, dict[str, Any]],
    noise_of: Mapping[str, str],
) -> None:
    """The curves of the paper, dashed, in the colour of the first method that is the same."""
    for place, curve in split(published, ["method"]):
        same = [method for method in styles if noise_of.get(method) == place["method"]]
        panel.plot(
            curve["percent_filters_pruned"],
            curve["accuracy_mean"],
            label=f"{place['method']}, the paper",
            linestyle="--",
            linewidth=1.2,
            color=styles[same[0]]["color"] if same else "0.6",
        )
