"""What a benchmark found, for people: tables, a bar plot, ratios to an earlier record."""

import pathlib
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from bbo.files import write_text
from bbo.pipeline.curve_file import save_figure
from experiments.report import figures, tables

SAME = ("framework", "variant", "model", "width", "dataset", "noise", "dtype", "batch_size")
"""What two rows have in common that measured the same."""
GROUP = ("model", "width", "dataset", "dtype", "batch_size")
"""And those that were measured in turn."""
MIB = 2**20


def write(record: dict[str, Any], earlier: dict[str, Any] | None, out: pathlib.Path) -> str:
    """Writes ``benchmark.md`` and ``steps.png``; gives the text of the former.

    Args:
      record: of ``experiments.benchmark``.
      earlier: another, to compare with.
      out: the folder.
    """
    sections = [
        ("In short", short_table(record)),
        ("Training steps", step_table(record)),
        ("Compiling and memory", compile_table(record)),
        ("Pruning curves", curve_table(record)),
        ("Against the earlier record", comparison_table(record, earlier)),
    ]
    parts = [heading(record)]
    parts += [f"## {title}\n\n{tables.markdown(rows)}" for title, rows in sections if rows]
    text = "\n\n".join(parts) + "\n"
    write_text(out / "benchmark.md", text)
    save_figure(out / "steps.png", step_figure(record))
    return text


def heading(record: dict[str, Any]) -> str:
    """What ran, where."""
    environment = record["environment"]
    versions = environment["versions"]
    lines = [
        f"`{record['command']}`",
        f"{environment['device']} ({environment['platform']}), jax {versions['jax']}, Python "
        f"{environment['python']}, commit {environment['commit']}",
        *([f"XLA_FLAGS: {flags}"] if (flags := environment.get("xla_flags")) else []),
        *(f"{key}: {value}" for key, value in record.get("torch", {}).items()),
        "Most that was seen of a matrix product: "
        + ", ".join(
            f"{peak / 1e9:.0f} GFLOP/s in {dtype}" for dtype, peak in record["peaks"].items()
        ),
        *(f"{name}: {seconds:.2f} s" for name, seconds in record["start"].items()),
    ]
    return "\n\n".join(lines)


def short_table(record: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each of our programs without noise: what noise adds to it, and the others."""
    rows, found = record["steps"], []
    compared = any(row["framework"] != "jax" for row in rows)
    for plain in rows:
        if (plain["framework"], plain["noise"]) != ("jax", "none"):
            continue
        same = ("framework", "variant", *GROUP)
        line = {
            "network": network_of(plain),
            "program": name_of(plain),
            "step (ms)": f"{1000 * plain['median']:.0f}",
            "images/s": f"{plain['images_per_second']:.0f}",
        }
        if compared:
            line["to best PyTorch"] = ratio(plain, best_other(plain, rows))
        for row in rows:
            if row["noise"] != "none" and all(row[key] == plain[key] for key in same):
                line[f"{row['noise']} to none"] = f"{row['to_no_noise']:.3f}"
                if compared:
                    line[f"{row['noise']} to best PyTorch"] = ratio(row, best_other(row, rows))
        found.append(line)
    return found


def step_table(record: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each program: the time of a step, and what it is in relation to others."""
    rows = record["steps"]
    return [
        {
            "network": network_of(row),
            "program": name_of(row),
            "noise": row["noise"],
            "step (ms)": f"{1000 * row['median']:.1f}",
            "quartiles": f"{1000 * row['low']:.1f} to {1000 * row['high']:.1f}",
            "samples": f"{row['samples']} of {row['of_samples']}",
            "images/s": f"{row['images_per_second']:.0f}",
            "of peak": share_of_peak(row, record["peaks"]),
            "to no noise": "-" if row["noise"] == "none" else f"{row['to_no_noise']:.3f}",
            "to best PyTorch": ratio(row, best_other(row, rows)),
        }
        for row in rows
    ]


def network_of(row: dict[str, Any]) -> str:
    """What the programs that are compared have in common."""
    width = "" if row["width"] == 1 else f" width {row['width']:g}"
    return f"{row['model']}{width}, batch {row['batch_size']}"


def name_of(row: dict[str, Any]) -> str:
    """Framework, variant and dtype."""
    variant = row["variant"]
    if row["framework"] == "jax":
        variant = ", ".join(filter(None, (row["dtype"], variant)))
    return f"{row['framework']} {variant}"


def share_of_peak(row: dict[str, Any], peaks: dict[str, float]) -> str:
    """Achieved FLOP/s as a share of the peak in the same dtype."""
    if "flops" not in row:
        return "-"
    return f"{100 * row['flops'] / row['median'] / peaks[row['dtype']]:.0f} %"


def best_other(row: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest program of the other framework with the same noise, in the same dtype."""
    others = [
        other
        for other in rows
        if row["framework"] == "jax" != other["framework"]
        and all(row[key] == other[key] for key in (*GROUP, "noise"))
        and ("bfloat16" in other["variant"]) == (row["dtype"] == "bfloat16")
    ]
    return max(others, key=lambda other: other["images_per_second"], default=None)


def matching(row: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The row that measured the same, if there is one."""
    return next((other for other in rows if all(row[key] == other[key] for key in SAME)), None)


def ratio(row: dict[str, Any], other: dict[str, Any] | None) -> str:
    """How many times as long for an image; a dash if there is nothing to compare with."""
    return f"{other['images_per_second'] / row['images_per_second']:.3f}" if other else "-"


def compile_table(record: dict[str, Any]) -> list[dict[str, str]]:
    """Of our programs."""
    return [
        {
            "network": network_of(row),
            "program": name_of(row),
            "noise": row["noise"],
            "compile, cold (s)": f"{row['compile_cold']:.1f}",
            "from the cache (s)": f"{row['compile_warm']:.1f}",
            "memory at most (MiB)": f"{row['bytes_at_most'] / MIB:.0f}",
        }
        for row in record["steps"]
        if "compile_cold" in row
    ]


def curve_table(record: dict[str, Any]) -> list[dict[str, str]]:
    """Pruning curves beside as many evaluations."""
    return [
        {
            "network": network_of(row),
            "points": str(row["points"]),
            "test images": str(row["test_images"]),
            "curve (s)": f"{row['curve']:.1f}",
            "as many evaluations (s)": f"{row['evaluations']:.1f}",
            "ratio": f"{row['curve'] / row['evaluations']:.3f}",
        }
        for row in record["curves"]
    ]


def comparison_table(
    record: dict[str, Any], earlier: dict[str, Any] | None
) -> list[dict[str, str]]:
    """How many times as long as before, in all that both records measured."""
    rows = []
    for row in record["steps"] if earlier else []:
        before = matching(row, earlier["steps"]) if earlier else None
        if before:
            found = {"network": network_of(row), "program": name_of(row), "noise": row["noise"]}
            found |= {
                "before (ms)": f"{1000 * before['median']:.1f}",
                "now (ms)": f"{1000 * row['median']:.1f}",
                "now / before": ratio(row, before),
            }
            rows.append(found)
    return rows


def step_figure(record: dict[str, Any]) -> Figure:
    """A bar for each program: images a second; the line is from quartile to quartile."""
    rows = record["steps"]
    groups = list(dict.fromkeys(tuple(row[key] for key in GROUP) for row in rows))
    most = max(len(members_of(group, rows)) for group in groups)
    figure = Figure(figsize=(8, len(groups) * (0.3 * most + 1.1)), layout="constrained")
    programs = list(dict.fromkeys(map(name_of, rows)))
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        members = members_of(group, rows)
        names = [f"{name_of(row)}, {row['noise']}" for row in members]
        speeds = [row["images_per_second"] for row in members]
        spread = [
            [
                speed * (1 - row["median"] / row["high"])
                for speed, row in zip(speeds, members, strict=True)
            ],
            [
                speed * (row["median"] / row["low"] - 1)
                for speed, row in zip(speeds, members, strict=True)
            ],
        ]
        colours = [figures.COLOURS[1 + programs.index(name_of(row)) % 6] for row in members]
        bars = panel.barh(names, speeds, xerr=spread, color=colours, ecolor="black")
        panel.bar_label(bars, fmt="%.0f", padding=6)
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.set_title(network_of(members[0]), fontsize=10)
    panels[-1].set_xlabel("images a second, in training")
    return figure


def members_of(group: tuple, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The programs that were measured in turn."""
    return [row for row in rows if tuple(row[key] for key in GROUP) == group]
