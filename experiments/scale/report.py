"""The table and the figure of ``experiments.scale``, from its rows."""

import importlib.metadata
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bbo.files import write_text
from bbo.pipeline.curve_file import save_figure
from bbo.settings.config import ExperimentConfig
from bbo.settings.provenance import environment
from experiments.report import tables
from experiments.scale import topology
from experiments.scale.points import line_of


def write(
    rows: Sequence[dict[str, Any]],
    config: ExperimentConfig,
    peaks: Mapping[str, Any],
    command: str,
    out: pathlib.Path,
) -> str:
    """Writes ``scale.csv``, ``scale.md`` and ``scale.png``; gives the text of the second.

    Args:
      rows: of ``points.described``.
      config: the settings that they share.
      peaks: of each topology.
      command: that made the rows.
      out: the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "scale.csv", pd.DataFrame(rows).to_csv(index=False))
    fit = [row for row in rows if "error" not in row]
    parts = [heading(command, pods=any(peaks))]
    parts += [peaks_text(pod, of) for pod, of in peaks.items()]
    if fit:
        parts += [f"## Steps\n\n{tables.markdown(table_text(fit))}"]
        parts += [f"## Communication\n\n{tables.markdown(communication_table(fit))}"]
        parts += [communication_text(fit)]
        title = f"{config.data.dataset}, {config.train.dtype}; at least, predicted from peaks"
        save_figure(out / "scale.png", scale_figure(fit, title))
    lost = [row for row in rows if "error" in row]
    parts += [
        f"{row['model']}, {row['noise']}, batch of {row['batch_size']} on "
        f"{row['topology'] or row['devices']}: {row['error']}"
        for row in lost
    ]
    text = "\n\n".join(parts) + "\n"
    write_text(out / "scale.md", text)
    return text


def heading(command: str, *, pods: bool) -> str:
    """What compiled, with libtpu or without."""
    found = environment()
    compilers = {"jax": found["versions"]["jax"], "jaxlib": found["versions"]["jaxlib"]}
    if pods:
        compilers["libtpu"] = importlib.metadata.version("libtpu")
    versions = ", ".join(f"{name} {version}" for name, version in compilers.items())
    return f"`{command}`\n\n{versions}, commit {found['commit']}"


def table_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table for people, but for some columns where all rows are alike; of a device and step."""
    table = [line_text(row) for row in rows]
    alike = {name for name in ALIKE if len({line[name] for line in table}) == 1}
    if any(row["unexplained_bytes"] for row in rows):
        alike -= {"bytes not in closed form"}
    return [{name: line[name] for name in line if name not in alike} for line in table]


ALIKE = ("scaling", "width", "bytes not in closed form")
"""Columns that are not shown where all rows have the same, of the last one none."""


def line_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    on_pod = row["topology"]
    return {
        "network": row["model"],
        "noise": row["noise"],
        "scaling": row["scaling"],
        "width": f"{row['width']:g}",
        **({"topology": row["topology"]} if on_pod else {"devices": row["devices"]}),
        "batch": row["batch_size"],
        "GMACs": f"{row['macs'] / 1e9:.3g}",
        "GFLOPs": f"{row['flops'] / 1e9:.3g}",
        "MB moved": f"{row['bytes_accessed'] / 1e6:.3g}",
        **({"Mcycles": f"{row['estimated_cycles'] / 1e6:.3g}"} if on_pod else {}),
        "MB memory": f"{row['memory_bytes'] / 1e6:.3g}",
        **({"of memory (%)": f"{100 * row['memory_share']:.1f}"} if on_pod else {}),
        "collectives": row["num_collectives"],
        "MB reduced": f"{row['all_reduce_bytes'] / 1e6:.3f}",
        "bytes not in closed form": row["unexplained_bytes"],
        "ms a step": f"{1e3 * row['step_seconds']:.3g}",
        "bound by": row["bound"],
        "communication (%)": f"{100 * row['communication_share']:.1f}",
        "efficiency (%)": f"{100 * row['efficiency']:.0f}",
    }


def peaks_text(pod: str, peaks: Any) -> str:
    """What the prediction takes for granted, and where it is from."""
    links = f"{topology.parse(pod).rings} of the links" if pod else "link"
    return (
        f"Each device{' of ' if pod else ''}{pod}: {peaks.flops:.3g} FLOP/s, memory "
        f"{peaks.bandwidth:.3g} bytes/s, {links} {peaks.link:.3g} bytes/s, {peaks.latency:g} s an "
        f"exchange; {peaks.source}"
    )


def communication_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each of the figure: where communication takes longer than all else."""
    found = []
    for _, of_one in itertools.groupby(rows, line_of):
        line = list(of_one)
        last = line[-1]
        slow = [row["devices"] for row in line if row["bound"] == "communication"]
        found.append(
            {
                "network": last["model"],
                "noise": last["noise"],
                "chip": last["topology"].partition(":")[0] or "-",
                "scaling": last["scaling"],
                "width": f"{last['width']:g}",
                "batch": last["batch"],
                "longest from (devices)": min(slow, default="none"),
                "up to (devices)": last["devices"],
                "exchanges there": last["num_collectives"],
                "each may take (us)": limit_text(last),
            }
        )
    return found


def limit_text(row: Mapping[str, Any]) -> str:
    """Microseconds that an exchange may take before communication takes longest."""
    return f"{1e6 * row['latency_limit']:.1f}" if row["num_collectives"] else "-"


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
    lines = [line for _, line in itertools.groupby(rows, line_of) for line in [list(line)]]
    for scaling, panels in zip(scalings, grid, strict=True):
        draw_lines([line for line in lines if line[0]["scaling"] == scaling], panels)
        fixed = "batch of all devices" if scaling == "strong" else "batch of each device"
        panels[0].set_ylabel(f"{scaling} scaling: {fixed} fixed\n\nms a step (dotted: ideal)")
        panels[1].set_ylabel("memory of each device (MB)")
        panels[2].set_ylabel("communication (% of the step)")
    for panel in grid[-1]:
        panel.set_xlabel("devices")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_lines(lines: Sequence[list[dict[str, Any]]], panels: Any) -> None:
    """Three panels: a colour for each network, a marker for each noise, chip and batch."""
    networks = list(dict.fromkeys((line[0]["model"], line[0]["width"]) for line in lines))
    others = list(dict.fromkeys(map(other_of, lines)))
    devices = sorted({row["devices"] for line in lines for row in line})
    shown: tuple[Callable[[dict[str, Any]], float], ...] = (
        lambda row: 1e3 * row["step_seconds"],
        lambda row: row["memory_bytes"] / 1e6,
        lambda row: 100 * row["communication_share"],
    )
    for line in lines:
        first, counts = line[0], [row["devices"] for row in line]
        look = {
            "color": f"C{networks.index((first['model'], first['width']))}",
            "marker": "os^vD"[others.index(other_of(line)) % 5],
        }
        label = f"{first['model']}, width {first['width']:g}, {', '.join(other_of(line))}"
        for panel, value in zip(panels, shown, strict=True):
            panel.plot(counts, list(map(value, line)), label=label, **look)
        ideal = [
            shown[0](first) * (1 if first["scaling"] == "weak" else counts[0] / count)
            for count in counts
        ]
        panels[0].plot(counts, ideal, color=look["color"], linestyle=":")
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


def other_of(line: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What a line of the figure is of, besides a network."""
    row = line[0]
    chip = (row["topology"].partition(":")[0],) if row["topology"] else ()
    return (row["noise"], *chip, f"batch {row['batch']}")
