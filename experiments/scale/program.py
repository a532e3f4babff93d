"""How step time, memory and communication grow with devices, batch and width; nothing is run.

  python -m experiments.scale --model=vgg16 --noise=batch_bridgeout --out=DIR
  python -m experiments.scale --model=wrn16_4 --widths=0.5,1,2 --batch_sizes=128,1024 --out=DIR
  python -m experiments.scale --peaks=h100 --dtype=bfloat16 --link=50e9 --out=DIR

The training step is compiled for so many (fake) devices; its exchanges, operations and memory are
read off, and a roofline tells what a step takes at least. Strong scaling shares a batch among the
devices; weak scaling gives each device such a batch. Compiling takes some seconds for each line of
the table. The predicted times hold for devices of which each has the peaks: by default those of
this machine, measured by a product of matrices and a copy, with a link as fast as its memory, and
exchanges that take no time of their own (--link and --latency say otherwise). DIR then holds
scale.csv (in bytes, seconds, MACs and FLOPs of each device and step) and scale.png. Exit status: 0
done, 2 a mistake.
"""

import itertools
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags

from bbo.files import write_text
from bbo.settings.catalog import DATASETS, REGULARISERS
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError
from experiments.command_line import setting_flags, xla

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " scale"}
SCALINGS = ("strong", "weak")
"""The batch of all devices is fixed, or that of each."""
PEAKS = ("measured", "h100", "tpu_v4")
"""Of this machine, or from data sheets: see ``experiments.scale.roofline``."""
flags.DEFINE_string("out", None, "folder for the table and the figure", **_PLACE)
flags.DEFINE_string("model", "vgg16", "network, see experiments.run", **_PLACE)
flags.DEFINE_enum("dataset", "cifar10", list(DATASETS), "shape of the images", **_PLACE)
flags.DEFINE_integer(
    "images", 50_000, "training images, which each device holds", lower_bound=1, **_PLACE
)
flags.DEFINE_enum("noise", "batch_bridgeout", list(REGULARISERS), "regulariser", **_PLACE)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the computation", **_PLACE)
flags.DEFINE_enum("parallel", "jit", ["jit", "pmap"], "how devices work together", **_PLACE)
flags.DEFINE_list("devices", ["1", "2", "4", "8"], "how many", **_PLACE)
flags.DEFINE_list("batch_sizes", ["128"], "images in a step", **_PLACE)
flags.DEFINE_list("widths", ["1"], "factors on the channels of every layer", **_PLACE)
flags.DEFINE_multi_enum("scaling", list(SCALINGS), list(SCALINGS), "what is shown", **_PLACE)
flags.DEFINE_enum("peaks", "measured", PEAKS, "what a device can do: here, or on paper", **_PLACE)
flags.DEFINE_float("peak_flops", None, "in place of that: FLOP/s (twice the MACs/s)", **_PLACE)
flags.DEFINE_float("bandwidth", None, "likewise of memory, bytes/s", **_PLACE)
flags.DEFINE_float("link", None, "likewise to the next device, bytes/s", **_PLACE)
flags.DEFINE_float(
    "latency", 0.0, "seconds of an exchange whatever its size", lower_bound=0, **_PLACE
)


class Point(NamedTuple):
    """One line of the table."""

    scaling: str
    width: float
    batch: int
    """The flag's: of all devices (strong) or of each (weak)."""
    devices: int

    @property
    def global_batch(self) -> int:
        """Images in a step, over all devices."""
        return self.batch * (self.devices if self.scaling == "weak" else 1)


def main(values: flags.FlagValues) -> None:
    """Compiles every point and shows how they grow."""
    points, config = check(values)
    out = pathlib.Path(values["out"].value).expanduser()
    make_devices(max(point.devices for point in points))
    # Only now the heavy part: a mistake is told within a second.
    import pandas as pd

    from bbo.pipeline.curve_file import save_figure
    from experiments.report import tables
    from experiments.scale.report import communication_text, peaks_text, scale_figure, table_text

    peaks = peaks_from(values)
    rows = [
        described(point, found, peaks)
        for point, found in measured(points, config, values["images"].value)
    ]
    add_efficiency(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "scale.csv", pd.DataFrame(rows).to_csv(index=False))
    network = f"{config.model.model} on {config.data.dataset}, {config.noise.noise}"
    title = f"{network}, {config.train.dtype}; at least, predicted from: {peaks.source}"
    save_figure(out / "scale.png", scale_figure(rows, title))
    print(tables.markdown(table_text(rows)))
    print(f"\n{peaks_text(peaks)}\n{communication_text(rows)}")
    print(f"Table:  {out / 'scale.csv'}\nPlot:   {out / 'scale.png'}")


def check(values: flags.FlagValues) -> tuple[list[Point], ExperimentConfig]:
    """The points, in the order of the table, and the settings that all of them share.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    if not values["out"].value:
        raise UsageError("out is missing; name a folder for the table, as in --out=DIR")
    devices = whole("devices", values["devices"].value, least=1)
    batches = whole("batch_sizes", values["batch_sizes"].value, least=2)
    widths = setting_flags.numbers("widths", values["widths"].value)
    if not widths:
        raise UsageError("widths is empty; give some, as in 0.5,1,2")
    scalings = [name for name in SCALINGS if name in values["scaling"].value]
    names = ("model", "dataset", "noise", "dtype", "parallel")
    config = override(ExperimentConfig(), **{name: values[name].value for name in names})
    if (config.train.parallel, config.train.dtype) == ("pmap", "bfloat16"):
        raise UsageError("pmap cannot compile bfloat16 for CPUs, as is done here; use parallel=jit")
    each = (scalings, dict.fromkeys(widths), dict.fromkeys(batches), sorted(set(devices)))
    points = [Point(*numbers) for numbers in itertools.product(*each)]
    for point in points:
        configured(config, point)
        if point.global_batch % point.devices:
            raise UsageError(
                f"batch_sizes has {point.batch}, which {point.devices} devices cannot share "
                "evenly; give multiples of each number of devices, or --scaling=weak"
            )
    for name in ("peak_flops", "bandwidth", "link"):
        value = values[name].value
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name} is {value}; it must be a number > 0")
    return points, config


def configured(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """The settings of one point."""
    return override(config, width=point.width, batch_size=point.global_batch)


def whole(name: str, texts: Sequence[str], *, least: int) -> list[int]:
    """The value of a flag that is a list of whole numbers.

    Raises:
      UsageError: it is empty, or one of them is not whole or too small.
    """
    found = setting_flags.numbers(name, texts)
    if not found or any(number < least or number != int(number) for number in found):
        raise UsageError(f"{name} is {','.join(texts)!r}; give whole numbers from {least} on")
    return [int(number) for number in found]


def make_devices(count: int) -> None:
    """Sets the environment so that jax, which is not loaded yet, sees that many CPU devices.

    Raises:
      UsageError: it sees fewer, as it was loaded or set up before.
    """
    flag = "--xla_force_host_platform_device_count"
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        given = os.environ.get("XLA_FLAGS", "")
        if flag not in given:
            os.environ["XLA_FLAGS"] = f"{given} {flag}={count}".strip()
        xla.prepare(fusions=False)
    import jax

    from bbo.training.devices import check_platform

    check_platform()
    if jax.device_count() < count:
        raise UsageError(
            f"devices goes up to {count}, but jax sees {jax.device_count()}; unset JAX_PLATFORMS, "
            f"and {flag} in XLA_FLAGS"
        )


def peaks_from(values: flags.FlagValues) -> Any:
    """What a device can do, as the flags say; measured only where they do not."""
    from experiments.scale import roofline

    given = {
        field: values[name].value
        for field, name in (("flops", "peak_flops"), ("bandwidth", "bandwidth"), ("link", "link"))
        if values[name].value is not None
    }
    dtype, name = values["dtype"].value, values["peaks"].value
    given["latency"] = values["latency"].value
    if given.keys() >= {"flops", "bandwidth", "link"}:
        return roofline.Peaks(**given, source="given numbers")
    known = roofline.measured_peaks(dtype) if name == "measured" else None
    known = known or roofline.DATA_SHEETS[name][dtype]
    source = "; ".join([known.source, *(f"{name} as given" for name in given if given[name])])
    return known._replace(**given, source=source)


def measured(
    points: Sequence[Point], config: ExperimentConfig, num_images: int
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """What is counted at each point; strong and weak scaling share what they can."""
    import jax

    from bbo.training.bar import progress_bar
    from bbo.training.devices import data_mesh
    from experiments.scale.step_cost import step_counts, step_macs

    macs = {
        width: step_macs(override(config, width=width, batch_size=2)) // 2
        for width in {point.width for point in points}
    }
    known: dict[tuple, dict[str, Any]] = {}
    for point in progress_bar(points, desc="compiling", unit="program"):
        program = (point.width, point.global_batch, point.devices)
        if program not in known:
            mesh = data_mesh(jax.devices()[: point.devices])
            known[program] = step_counts(configured(config, point), mesh, num_images)
        per_device = point.global_batch // point.devices
        yield point, {"macs": macs[point.width] * per_device, **known[program]}


def described(point: Point, counts: dict[str, Any], peaks: Any) -> dict[str, Any]:
    """A row: the point, what was counted there, and what is predicted from it (seconds)."""
    from experiments.scale import roofline

    names = ("flops", "bytes_accessed", "sent_bytes", "num_collectives")
    predicted = roofline.predict(peaks, **{name: counts[name] for name in names})
    return {
        **point._asdict(),
        "batch_size": point.global_batch,
        **counts,
        **{f"{name}_seconds": value for name, value in predicted._asdict().items()},
        "step_seconds": predicted.step,
        "bound": predicted.bound,
        "communication_share": predicted.communication / predicted.step,
        "images_per_second": point.global_batch / predicted.step,
    }


def add_efficiency(rows: list[dict[str, Any]]) -> None:
    """Adds ``efficiency``: images per second and device, as a share of that on fewest devices."""
    first: dict[tuple, float] = {}
    for row in rows:  # each line of the figure begins with its fewest devices
        speed = row["images_per_second"] / row["devices"]
        line = row["scaling"], row["width"], row["batch"]
        row["efficiency"] = speed / first.setdefault(line, speed)
