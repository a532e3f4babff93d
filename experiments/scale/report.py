"""The table and the figure of ``experiments.scale``, from its rows."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator


def table_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The table for people; counts are of each device and step."""
    return [
        {
            "scaling": row["scaling"],
            "width": f"{row['width']:g}",
            "devices": row["devices"],
            "batch": row["batch_size"],
            "GMACs": f"{row['macs'] / 1e9:.3g}",
            "GFLOPs": f"{row['flops'] / 1e9:.3g}",
            "MB moved": f"{row['bytes_accessed'] / 1e6:.0f}",
            "MB memory": f"{row['memory_bytes'] / 1e6:.0f}",
            "collectives": row["num_collectives"],
            "MB reduced": f"{row['all_reduce_bytes'] / 1e6:.3f}",
            "bytes not in closed form": row["unexplained_bytes"],
            "ms a step": f"{1e3 * row['step_seconds']:.3g}",
            "bound by": row["bound"],
            "communication (%)": f"{100 * row['communication_share']:.1f}",
            "efficiency (%)": f"{100 * row['efficiency']:.0f}",
        }
        for row in rows
    ]


def peaks_text(peaks: Any) -> str:
    """What the prediction takes for granted, and where it is from."""
    return (
        f"Each device: {peaks.flops:.3g} FLOP/s, memory {peaks.bandwidth:.3g} bytes/s, link "
        f"{peaks.link:.3g} bytes/s, {peaks.latency:g} s an exchange; {peaks.source}"
    )


def communication_text(rows: Sequence[dict[str, Any]]) -> str:
    """What the devices exchange, and whether it is what it has to be."""
    many = [row for row in rows if row["devices"] > 1]
    kinds = sorted({kind for row in many for kind in row["collectives"].split()})
    told = f"Collectives: {', '.join(kinds) or 'none'}"
    if not many:
        return told
    if any(row["unexplained_bytes"] for row in many):
        return (
            f"{told}; these are not the sums of gradients, BatchNorm statistics and metrics alone"
        )
    row = many[-1]
    parts = ("gradients", "forward", "backward", "metrics")
    shares = " + ".join(f"{row[f'{name}_bytes']} {name}" for name in parts)
    return f"{told}; at width {row['width']:g} {shares} bytes, whatever the batch and the noise"


def scale_figure(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Step time, memory and share of communication against devices, a row for each scaling."""
    scalings = list(dict.fromkeys(row["scaling"] for row in rows))
    figure = Figure(figsize=(14, 3.8 * len(scalings) + 0.6), layout="constrained")
    grid = figure.subplots(len(scalings), 3, squeeze=False, sharex=True, sharey="col")
    for scaling, panels in zip(scalings, grid, strict=True):
        draw_scaling([row for row in rows if row["scaling"] == scaling], panels)
        fixed = "batch of all devices" if scaling == "strong" else "batch of each device"
        panels[0].set_ylabel(f"{scaling} scaling: {fixed} fixed\n\nms a step (dotted: ideal)")
        panels[1].set_ylabel("memory of each device (MB)")
        panels[2].set_ylabel("communication (% of the step)")
    for panel in grid[-1]:
        panel.set_xlabel("devices")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="width, batch", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_scaling(rows: Sequence[dict[str, Any]], panels: Any) -> None:
    """Three panels: a colour for each width, a style for each batch."""
    widths, batches = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("width", "batch")
    )
    shown: tuple[Callable[[dict[str, Any]], float], ...] = (
        lambda row: 1e3 * row["step_seconds"],
        lambda row: row["memory_bytes"] / 1e6,
        lambda row: 100 * row["communication_share"],
    )
    for width, batch in itertools.product(widths, batches):
        line = [row for row in rows if (row["width"], row["batch"]) == (width, batch)]
        devices = [row["devices"] for row in line]
        look = {"color": f"C{widths.index(width)}", "marker": "os^vD"[batches.index(batch) % 5]}
        for panel, value in zip(panels, shown, strict=True):
            panel.plot(devices, list(map(value, line)), label=f"{width:g}, {batch}", **look)
        ideal = [
            shown[0](line[0]) * (1 if row["scaling"] == "weak" else devices[0] / row["devices"])
            for row in line
        ]
        panels[0].plot(devices, ideal, color=look["color"], linestyle=":")
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xticks(devices, map(str, devices))
        panel.grid(alpha=0.3)
    for panel in panels[:2]:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
    panels[2].set_ylim(bottom=0)
