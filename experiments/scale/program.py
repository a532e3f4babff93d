"""How step time, memory and communication grow with devices, batch and width; nothing is run.

  python -m experiments.scale --model=vgg16 --noise=batch_bridgeout --out=DIR
  python -m experiments.scale --model=wrn16_4 --widths=0.5,1,2 --batch_sizes=128,1024 --out=DIR
  python -m experiments.scale --peaks=h100 --dtype=bfloat16 --link=50e9 --out=DIR
  python -m experiments.scale --topology=v5e:2x2,v5e:4x4 --dtype=bfloat16 --out=DIR

The training step is compiled for so many (fake) devices; its exchanges, operations and memory are
read off, and a roofline tells what a step takes at least. Strong scaling shares a batch among the
devices; weak scaling gives each device such a batch. Compiling takes some seconds for each line of
the table. The predicted times hold for devices of which each has the peaks: by default those of
this machine, measured by a product of matrices and a copy, with a link as fast as its memory, and
exchanges that take no time of their own (--link and --latency say otherwise). DIR then holds
scale.csv (in bytes, seconds, MACs and FLOPs of each device and step), scale.md and scale.png.

With --topology the step is compiled for TPUs that are not there, by libtpu, and the peaks are
those of the chip's data sheet. This takes minutes for each line of the table. Exit status: 0 done,
2 a mistake.
"""

import itertools
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from bbo.settings.catalog import DATASETS, REGULARISERS
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.installed import with_names_here
from bbo.types import UsageError
from experiments.command_line import setting_flags, xla
from experiments.scale import topology
from experiments.scale.points import SCALINGS, Point

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " scale"}
PEAKS = ("measured", "h100", "tpu_v4", "tpu_v5e", "tpu_v5p", "tpu_v6e")
"""Of this machine, or from data sheets: see ``experiments.scale.roofline``."""
flags.DEFINE_string("out", None, "folder for the table and the figure", **_PLACE)
flags.DEFINE_list("model", ["vgg16"], "networks, see experiments.run", **_PLACE)
flags.DEFINE_enum("dataset", "cifar10", list(DATASETS), "shape of the images", **_PLACE)
flags.DEFINE_integer(
    "images", 50_000, "training images, which each device holds", lower_bound=1, **_PLACE
)
flags.DEFINE_list(
    "noise", ["batch_bridgeout"], f"regularisers, of {', '.join(REGULARISERS)}", **_PLACE
)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the computation", **_PLACE)
flags.DEFINE_enum("parallel", "jit", ["jit", "pmap"], "how devices work together", **_PLACE)
flags.DEFINE_enum(
    "norm_scope", "global", ["global", "device"], "what BatchNorm averages over", **_PLACE
)
flags.DEFINE_integer("steps_per_call", 1, "training steps in one computation", **_PLACE)
flags.DEFINE_list("devices", ["1", "2", "4", "8"], "how many", **_PLACE)
flags.DEFINE_list(
    "topology",
    [],
    "in place of them: TPUs to compile for, such as v5e:4x4, v6e:2x2 or v5p:2x2x1",
    **_PLACE,
)
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


def main(values: flags.FlagValues) -> None:
    """Compiles every point and shows how they grow."""
    points, config = check(values)
    out = pathlib.Path(values["out"].value).expanduser()
    if values["topology"].value:
        topology.prepare()
    make_devices(1 if values["topology"].value else max(point.devices for point in points))
    # Only now the heavy part: a mistake is told within a second.
    from experiments.scale.points import described
    from experiments.scale.report import write

    pods = dict.fromkeys(point.topology for point in points)
    for pod in filter(None, pods):
        topology.devices(topology.parse(pod))
    peaks = {pod: peaks_from(values, pod) for pod in pods}
    command = f"python -m experiments.scale {' '.join(setting_flags.given(values, but=('out',)))}"
    rows: list[dict[str, Any]] = []
    text = ""
    for row in described(points, config, values["images"].value, peaks):
        rows.append(row)
        # As far as it has come: compiling may take an hour.
        text = write(rows, config, peaks, with_names_here(command), out)
    print(text)
    print(f"Table:  {out / 'scale.csv'}\nPlot:   {out / 'scale.png'}")


def check(values: flags.FlagValues) -> tuple[list[Point], ExperimentConfig]:
    """The points, in the order of the table, and the settings that all of them share.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    if not values["out"].value:
        raise UsageError("out is missing; name a folder for the table, as in --out=DIR")
    batches = whole("batch_sizes", values["batch_sizes"].value, least=2)
    widths = setting_flags.numbers("widths", values["widths"].value)
    lists = {"widths": widths, "model": values["model"].value, "noise": values["noise"].value}
    for name, examples in (("widths", "0.5,1,2"), ("model", "vgg16"), ("noise", "none,dropout")):
        if not lists[name]:
            raise UsageError(f"{name} is empty; give some, as in {examples}")
    names = ("dataset", "dtype", "parallel", "norm_scope", "steps_per_call")
    config = override(ExperimentConfig(), **{name: values[name].value for name in names})
    points = [
        Point(*each, devices=devices, topology=pod)
        for *each, (pod, devices) in itertools.product(
            *(dict.fromkeys(lists[name]) for name in ("model", "noise")),
            [name for name in SCALINGS if name in values["scaling"].value],
            *(dict.fromkeys(numbers) for numbers in (widths, batches)),
            device_groups(values),
        )
    ]
    for point in points:
        point.settings(config)
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


def device_groups(values: flags.FlagValues) -> list[tuple[str, int]]:
    """The devices to compile for, fewest first: a topology, or none, and how many they are.

    Raises:
      UsageError: the flags that say so are wrong, or do not fit each other.
    """
    if not values["topology"].value:
        if (values["parallel"].value, values["dtype"].value) == ("pmap", "bfloat16"):
            raise UsageError(
                "pmap cannot compile bfloat16 for CPUs, as is done here; use parallel=jit"
            )
        return [("", count) for count in sorted(set(whole("devices", values["devices"].value)))]
    for name in ("devices", "peaks"):
        if values[name].present:
            raise UsageError(f"topology says what {name} says too; leave one of them out")
    return [(one.name, one.size) for one in topology.check(values["topology"].value)]


def whole(name: str, texts: Sequence[str], *, least: int = 1) -> list[int]:
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


def peaks_from(values: flags.FlagValues, pod: str = "") -> Any:
    """What a device can do, of a topology or here, as the flags say; measured only if they do not.

    A link counts for each ring of a pod, see ``topology.Topology.rings``.
    """
    from experiments.scale import roofline

    given = {
        field: values[name].value
        for field, name in (("flops", "peak_flops"), ("bandwidth", "bandwidth"), ("link", "link"))
        if values[name].value is not None
    }
    dtype, name = values["dtype"].value, values["peaks"].value
    given["latency"] = values["latency"].value
    if not pod and given.keys() >= {"flops", "bandwidth", "link"}:
        return roofline.Peaks(**given, source="given numbers")
    measured = not pod and name == "measured"
    known = roofline.measured_peaks(dtype) if measured else None
    sheet = f"tpu_{topology.parse(pod).chip}" if pod else name
    known = known or roofline.DATA_SHEETS[sheet][dtype]
    source = "; ".join([known.source, *(f"{name} as given" for name in given if given[name])])
    known = known._replace(**given, source=source)
    return known._replace(link=known.link * topology.parse(pod).rings) if pod else known
