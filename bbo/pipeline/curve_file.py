"""What people look at: the curve as a file, a table and a plot."""

import io
import os
import pathlib
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bbo.files import write_text
from bbo.settings.catalog import RECOVERIES
from bbo.settings.config import ExperimentConfig

COLOURS = ("tab:gray", "tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
"""Of the recoveries, in their order; from the first again where they are more."""

SHORTFALL = 0.05
"""A share of the units; what falls short by no more is not told."""


def write_curve(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes one line per row, whole or not at all."""
    text = io.StringIO()
    pd.DataFrame(rows).to_csv(text, index=False)
    write_text(path, text.getvalue())


def read_curve(path: pathlib.Path) -> pd.DataFrame:
    """The rows of a ``curve.csv``."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def percent(share: float) -> str:
    """A share that was asked for.

    >>> percent(0.3), percent(0.125)
    ('30 %', '12.5 %')
    """
    return f"{round(100 * share, 6):g} %"


def curve_table(curve: pd.DataFrame) -> str:
    """Test accuracy in per cent: a line per sparsity, a column per granularity and recovery.

    A point that failed is a dash, and below the table is said why, and where less was removed.
    """
    shown = curve.assign(accuracy=100 * curve["test_top1"])
    by = ["sparsity", "granularity", "recovery"]
    # The other way to turn lines into columns leaves out those that are empty.
    table = shown.set_index(by)["accuracy"].unstack(by[1:], sort=False)  # pyright: ignore
    table.columns = [f"{unit}s, {recovery_text(recovery)}" for unit, recovery in table.columns]
    # Only now, as shares that are nearly equal have one text.
    table.index = table.index.map(percent).rename(None)
    text = table.to_string(float_format="{:.1f}".format, na_rep="-")  # pyright: ignore
    return "\n".join([text, *(f"- {line}" for line in [*failures(curve), *shortfalls(curve)])])


def failures(curve: pd.DataFrame) -> list[str]:
    """What failed, a line each: ``filters, 50 %, as pruned: RuntimeError: out of memory``."""
    if "error" not in curve:
        return []
    columns = ["granularity", "sparsity", "recovery", "error"]
    return [
        f"{granularity}s, {percent(sparsity)}, {recovery_text(recovery)}: {error}"
        for granularity, sparsity, recovery, error in curve[columns].to_numpy()
        if isinstance(error, str) and error  # an empty one is read as NaN
    ]


def shortfalls(curve: pd.DataFrame) -> list[str]:
    """Where less was removed than asked for, a line each: ``filters, 50 %: 7.1 % were removed ..``.

    Units of equal scores stay together, such as filters that training made zero, see
    ``pruning.ranks``; and numbers are rounded down in each layer. See ``SHORTFALL``.

    Args:
      curve: of one network, or of several that differ in their seed: means are told.
    """
    if "achieved_sparsity" not in curve:
        return []
    shares = curve.groupby(["granularity", "sparsity"], sort=False)["achieved_sparsity"]
    removed = pd.DataFrame({"share": shares.mean()}).reset_index()
    why = "(ties stay, and each layer rounds down)"
    return [
        f"{granularity}s, {percent(asked)}: {100 * share:.1f} % were removed {why}"
        for granularity, asked, share in removed.to_numpy()
        if asked - share > SHORTFALL
    ]


def recovery_text(recovery: str) -> str:
    """How the pruned network was treated, for people."""
    return "as pruned" if recovery == "none" else f"{recovery} recovery"


def title(config: ExperimentConfig) -> str:
    """One line that says what was trained on what, and how.

    >>> from bbo.settings.config import override
    >>> title(override(ExperimentConfig(), noise="shakeout"))
    'small_cnn on digits, shakeout (rate 0.3, shakeout_c 0.1), 230 epochs'
    """
    used = config.noise.effective
    details = [f"{name} {value_text(value)}" for name, value in used.items() if value != ""]
    settings = f" ({', '.join(details)})" if details else ""
    network = f"{config.model.model} on {config.data.dataset}"
    return f"{network}, {config.noise.noise}{settings}, {config.train.epochs} epochs"


def value_text(value: Any) -> str:
    """The value of a setting, for people.

    >>> value_text((0.5, 0.75)), value_text(1e-3), value_text("local")
    ('0.5,0.75', '0.001', 'local')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def exact_text(value: Any) -> str:
    """Likewise, with all the digits that tell a number from others.

    >>> exact_text((0.5, 0.75)), exact_text(3 * 0.1)
    ('0.5,0.75', '0.30000000000000004')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(exact_text, value))
    short = value_text(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def subtitle(config: ExperimentConfig) -> str:
    """One line that says which network of the run was pruned, and how.

    >>> subtitle(ExperimentConfig())
    'network best_validation of seed 0, width 1; pruned by l2, scope local, meaning clean'
    """
    train, pruning, iterations = config.train, config.pruning, config.iterations
    text = (
        f"network {train.select} of seed {train.seed}, width {config.model.width:g}; "
        f"pruned by {pruning.criterion}, scope {pruning.scope}, meaning {pruning.meaning}"
    )
    if iterations.prune_iterations > 1:
        rewound = ", each from the initial weights" if iterations.rewind else ""
        text += f"; {iterations.prune_iterations} times {iterations.retrain_epochs} epochs{rewound}"
    return text


def plot_curve(path: pathlib.Path, curve: pd.DataFrame, *, title: str) -> None:
    """Draws test accuracy against the share removed, a panel per granularity; a PNG."""
    granularities = list(curve["granularity"].unique())
    figure = Figure(figsize=(5.2 * len(granularities), 4.2), layout="constrained")
    panels = figure.subplots(1, len(granularities), squeeze=False, sharey=True)[0]
    for panel, granularity in zip(panels, granularities, strict=True):
        part = curve[curve["granularity"] == granularity]
        for recovery, line in part.groupby("recovery", sort=False):
            panel.plot(
                100 * line["achieved_sparsity"],
                100 * line["test_top1"],
                marker="o",
                label=recovery_text(str(recovery)),
                color=COLOURS[list(RECOVERIES).index(str(recovery)) % len(COLOURS)],
            )
        panel.set(xlabel=f"{granularity}s removed (%)", ylim=(0, 102))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].legend(loc="lower left")
    figure.suptitle(title, fontsize=9 if len(granularities) == 1 else 11, wrap=True)
    save_figure(path, figure)


def save_figure(path: pathlib.Path, figure: Figure, *, description: str | None = None) -> None:
    """Writes a PNG, whole or not at all; in it is what matplotlib drew it, but not when.

    Args:
      path: where.
      figure: what.
      description: a text to keep in it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Description": description})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
