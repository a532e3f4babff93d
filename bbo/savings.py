"""What a smaller network saves: counted, and measured side by side."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from bbo import cost, timing
from bbo.types import Array, PyTree

NETWORKS = ("dense", "compact")
"""Before and after removal."""
Call = Callable[[Array], Any]
"""From images to logits, in any runtime."""


class Network(NamedTuple):
    """A network whose cost is wanted."""

    function: Callable[[PyTree, Array], Array]
    """``function(variables, images)``."""
    variables: PyTree


def counted(network: Network, image_shape: Sequence[int], batch_size: int) -> dict[str, float]:
    """What is known without running it: numbers of parameters, multiply-adds of an image, bytes.

    Args:
      network: see there.
      image_shape: (h, w, c).
      batch_size: of the activations.
    """
    one, many = (jax.ShapeDtypeStruct((n, *image_shape), jnp.float32) for n in (1, batch_size))
    return {
        "parameters": cost.num_params(network.variables["params"]),
        "MACs": cost.count_macs(network.function, network.variables, one),
        "bytes of arrays": cost.array_bytes(network.variables),
        f"bytes of activations, batch {batch_size}": cost.activation_bytes(
            network.function, network.variables, many
        ),
    }


def jax_call(network: Network) -> Call:
    """Compiled, with its variables on the first device: on several it would run as often."""
    function = jax.jit(network.function)
    variables = jax.device_put(network.variables, jax.local_devices()[0])
    return lambda images: function(variables, images)


def onnx_call(path: pathlib.Path) -> Call:
    """A file of ``export.write_onnx`` in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": np.asarray(images)})[0]


def latencies(
    runtimes: Mapping[str, Mapping[str, Call]],
    images: Array,
    *,
    batch_sizes: Sequence[int],
    seconds: float,
) -> list[dict[str, Any]]:
    """Times of all networks in each runtime, called in turn: seconds for a batch.

    Args:
      runtimes: networks by name, by runtime.
      images: [n, h, w, c]; repeated for larger batches.
      batch_sizes: to measure.
      seconds: for each network and batch size.

    Returns:
      keys ``runtime``, ``network``, and those of ``timing.Latency``.
    """
    rows, images = [], jax.device_put(images, jax.local_devices()[0])
    for runtime, networks in runtimes.items():
        for batch_size in batch_sizes:
            batch = jnp.resize(images, (batch_size, *images.shape[1:]))
            calls = {name: _bound(call, batch) for name, call in networks.items()}
            found = timing.compare_latencies(calls, batch_size=batch_size, seconds=seconds)
            rows += [
                {"runtime": runtime, "network": name, **latency._asdict()}
                for name, latency in found.items()
            ]
    return rows


def _bound(call: Call, batch: Array) -> Callable[[], Any]:
    return lambda: call(batch)


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

    Beside a time stands how many times as long it takes as they promise.
    """
    figure = Figure(figsize=(8, 0.4 * len(found) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = {row["cost"]: 100 * row["left"] for row in found}
    colours = ["#E69F00" if name.startswith("ms ") else "#0072B2" for name in left]
    bars = axes.barh(list(left), list(left.values()), color=colours)
    over = ["" if row["over_macs"] is None else f" (× {row['over_macs']:.1f})" for row in found]
    texts = [f"{share:.1f}{text}" for share, text in zip(left.values(), over, strict=True)]
    axes.bar_label(bars, labels=texts, padding=3)
    axes.axvline(left["MACs"], color="black", linestyle="--", linewidth=1)
    axes.set_xlabel("left of the dense network (%); dashed: multiply-adds (× times: of these)")
    axes.set_xlim(0, max(110, 1.1 * max(left.values())))
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    return figure
