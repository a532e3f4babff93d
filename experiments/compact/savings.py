"""What a smaller network saves: counted, and measured side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from bbo import compaction
from bbo.compaction.cost import activation_bytes, array_bytes, num_params
from bbo.compaction.timing import Timed

NETWORKS = ("dense", "compact")
"""Before and after removal."""


def counted(network: Timed, image_shape: Sequence[int], batch_size: int) -> dict[str, float]:
    """What is known without running it: numbers of parameters, multiply-adds of an image, bytes.

    Args:
      network: see there.
      image_shape: (h, w, c).
      batch_size: of the activations.
    """
    one, many = (jax.ShapeDtypeStruct((n, *image_shape), jnp.float32) for n in (1, batch_size))
    return {
        "parameters": num_params(network.variables["params"]),
        "MACs": compaction.count_macs(network.function, network.variables, one),
        "bytes of arrays": array_bytes(network.variables),
        f"bytes of activations, batch {batch_size}": activation_bytes(
            network.function, network.variables, many
        ),
    }


def table(
    counts: Mapping[str, Mapping[str, float]], times: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A line for each cost.

    Args:
      counts: from ``counted``, by network: ``dense`` and ``compact``.
      times: from ``latencies`` of the same networks.

    Returns:
      keys ``cost``, ``dense``, ``compact``, ``left`` (compact / dense), and of times ``over_macs``:
      left of the time / left of the multiply-adds, how many times slower than these promise.

    >>> latency = {"runtime": "jax", "batch_size": 8}
    >>> times = [latency | {"network": "dense", "median": 0.004}]
    >>> times += [latency | {"network": "compact", "median": 0.002}]
    >>> for row in table({"dense": {"MACs": 100}, "compact": {"MACs": 25}}, times):
    ...     print(row)
    {'cost': 'MACs', 'dense': 100, 'compact': 25, 'left': 0.25, 'over_macs': None}
    {'cost': 'ms in jax, batch 8', 'dense': 4.0, 'compact': 2.0, 'left': 0.5, 'over_macs': 2.0}
    """
    dense, compact = counts["dense"], counts["compact"]
    rows = [(name, dense[name], compact[name], None) for name in dense]
    promised = compact["MACs"] / dense["MACs"]
    median = {
        (row["runtime"], row["batch_size"], row["network"]): 1000 * row["median"] for row in times
    }
    for runtime, batch_size in dict.fromkeys(key[:2] for key in median):
        name = f"ms in {runtime}, batch {batch_size}"
        before, after = (median[runtime, batch_size, network] for network in NETWORKS)
        rows.append((name, before, after, after / before / promised))
    return [
        {"cost": name, "dense": before, "compact": after, "left": after / before, "over_macs": over}
        for name, before, after, over in rows
    ]


def table_text(found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The table for people: counts and bytes whole, times in three digits.

    The last two columns are of times: how many times faster the multiply-adds promise that it is,
    and how many times slower than promised.
    """
    (promised,) = (1 / row["left"] for row in found if row["cost"] == "MACs")

    def number(value: float) -> str:
        return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:.3g}"

    return [
        {
            "cost": row["cost"],
            "dense": number(row["dense"]),
            "compact": number(row["compact"]),
            "left (%)": f"{100 * row['left']:.1f}",
            "times less": f"{1 / row['left']:.2f}",
            "by MACs": "-" if row["over_macs"] is None else f"{promised:.2f}",
            "slower than that": "-" if row["over_macs"] is None else f"{row['over_macs']:.2f}",
        }
        for row in found
    ]


def savings_figure(found: Sequence[dict[str, Any]], title: str) -> Figure:
    """A bar for each cost: how many per cent of it are left; a line at the multiply-adds.

    The numbers stand in a column beside the bars, so that neither bars nor line run through them:
    the share that is left, and of a time how many times as long it takes as multiply-adds promise.
    """
    figure = Figure(figsize=(8, 0.4 * len(found) + 1.9), layout="constrained")
    axes = figure.subplots()
    left = {row["cost"]: 100 * row["left"] for row in found}
    colours = ["#E69F00" if name.startswith("ms ") else "#0072B2" for name in left]
    axes.barh(list(left), list(left.values()), color=colours)
    promised = axes.axvline(left["MACs"], color="black", linestyle="--", linewidth=1)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for place, row in enumerate(found):
        over = "" if row["over_macs"] is None else f"  × {row['over_macs']:.1f}"
        axes.text(1.02, place, f"{100 * row['left']:.1f} %{over}", **beside)
    axes.set_xlabel("left of the dense network (%)")
    axes.set_xlim(0, max(100, 1.05 * max(left.values())))
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    label = "as the multiply-adds promise (×: a time is so many times as long)"
    figure.legend([promised], [label], loc="outside lower center", fontsize=9)
    return figure
