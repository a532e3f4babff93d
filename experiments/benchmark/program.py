"""What training and pruning cost, measured side by side: step times, compile times, memory.

  python -m experiments.benchmark --out=bench                      three networks, two regularisers
  python -m experiments.benchmark --out=bench --against=torch      beside the same in PyTorch
  python -m experiments.benchmark --out=bench --compare=old.json   and against an earlier record

Training steps run on random images of the dataset's shape; no data is needed. All programs of a
network are called in turn, so that a busy machine slows all of them alike, and only samples during
which other processes were quiet count, if there are enough. Written are record.json, benchmark.md
and steps.png. Exit status: 0 done, 1 it failed, 2 a mistake.
"""

import importlib.util
import itertools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import flags

from bbo.files import parse_json, write_json
from bbo.settings.catalog import DATASETS, REGULARISERS
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.installed import how_to_install, with_names_here
from bbo.settings.provenance import environment
from bbo.types import UsageError
from experiments.benchmark import start_times
from experiments.command_line import setting_flags, xla

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " benchmark"}
flags.DEFINE_string("out", None, "folder for the record, the tables and the plot", **_PLACE)
flags.DEFINE_list("models", ["vgg16", "thin_resnet34", "wrn16_4"], "networks", **_PLACE)
flags.DEFINE_multi_enum(
    "noise",
    ["none", "batch_bridgeout", "dropout"],
    list(REGULARISERS),
    "regularisers; none is what the others are compared with",
    **_PLACE,
)
flags.DEFINE_multi_enum(
    "dtype", ["float32"], ["float32", "bfloat16"], "of the computation", **_PLACE
)
flags.DEFINE_list("batch_sizes", ["128"], "images in a step", **_PLACE)
flags.DEFINE_list(
    "members", ["1"], "seeds trained as one program, as --vmap_seeds of a run", **_PLACE
)
flags.DEFINE_list("steps_per_call", ["1"], "see --help of experiments.run", **_PLACE)
flags.DEFINE_multi_enum(
    "generator", ["threefry"], ["threefry", "rbg"], "of random numbers, likewise", **_PLACE
)
flags.DEFINE_integer("draw_bits", 32, "of Dropout and Sparseout, 32 or 8, likewise", **_PLACE)
flags.DEFINE_float("width", 1.0, "factor on the channels of all layers", **_PLACE)
flags.DEFINE_enum("dataset", "cifar10", list(DATASETS), "whose shape the images have", **_PLACE)
flags.DEFINE_integer("downscale", 1, "images averaged down by this factor", lower_bound=1, **_PLACE)
flags.DEFINE_string(
    "data_dir", None, "of its images, if the time to load them is to be measured", **_PLACE
)
flags.DEFINE_enum("against", "none", ["none", "torch"], "another framework beside ours", **_PLACE)
flags.DEFINE_float(
    "seconds", 15.0, "to measure each program for, on average", lower_bound=0, **_PLACE
)
flags.DEFINE_integer(
    "curve_points", 20, "sparsities of a pruning curve to time; 0: none", lower_bound=0, **_PLACE
)
flags.DEFINE_integer("test_images", 2000, "to evaluate it with", lower_bound=1, **_PLACE)
flags.DEFINE_string("compare", None, "record.json of an earlier benchmark", **_PLACE)


def main(values: flags.FlagValues) -> None:
    """Measures everything and shows it."""
    earlier, configs = check(values)
    xla.prepare(fusions=values["dataset"].value != "digits")
    from bbo.training.devices import check_platform
    from experiments.benchmark.report import write

    check_platform()
    out = pathlib.Path(values["out"].value).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    command = with_names_here("python -m experiments.benchmark")
    record: dict[str, Any] = {
        "command": " ".join(
            [command, *setting_flags.given(values, but=("out", "compare", "data_dir"))]
        ),
        "environment": environment(),
    }
    record["start"] = start_times.import_seconds()
    if values["data_dir"].value or not DATASETS[values["dataset"].value].prepared:
        record["start"] |= start_times.load_seconds(configs[0][0])
    record |= {"peaks": peaks(values), "steps": [], "curves": []}
    if values["against"].value == "torch":
        from experiments.benchmark.pytorch import training as torch_training

        record["torch"] = torch_training.describe()
    for same in configs:
        record["steps"] += measure_steps(same, values)
        if values["curve_points"].value:
            record["curves"].append(measure_curve(same[0], values))
        # As far as it has come: an hour of measuring is not lost with the last network.
        write_json(out / "record.json", record)
    print(write(record, earlier, out))
    print(f"Plot:   {out / 'steps.png'}\nFolder: {out}")


def check(values: flags.FlagValues) -> tuple[Any, list[list[ExperimentConfig]]]:
    """The earlier record, if any, and the settings to measure: in groups that are compared.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    if not values["out"].value:
        raise UsageError("out is missing; name a folder for the record, as in --out=bench")
    if values["against"].value == "torch" and not importlib.util.find_spec("torch"):
        raise UsageError(f"torch is not installed: {how_to_install('torch')}")
    if max(numbers(values, "members")) > 1 and "rbg" in values["generator"].value:
        raise UsageError("members above 1 need generator=threefry")
    numbers(values, "steps_per_call")
    earlier = read_record(values["compare"].value) if values["compare"].value else None
    sizes = numbers(values, "batch_sizes")
    each = itertools.product(values["models"].value, values["dtype"].value, sizes)
    shared = {name: values[name].value for name in ("dataset", "downscale", "draw_bits", "width")}
    if values["data_dir"].value:
        shared["data_dir"] = values["data_dir"].value
    noises = dict.fromkeys(["none", *values["noise"].value])
    return earlier, [
        [
            override(
                ExperimentConfig(),
                model=model,
                dtype=dtype,
                batch_size=size,
                noise=noise,
                **shared,
            )
            for noise in noises
        ]
        for model, dtype, size in each
    ]


def numbers(values: flags.FlagValues, name: str) -> list[int]:
    """The value of a flag that is a list of whole numbers.

    Raises:
      UsageError: it is none.
    """
    given = ",".join(values[name].value)
    try:
        found = [int(text) for text in values[name].value]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"{name} is {given!r}; give whole numbers from 1 on, as in 1,16")
    return found


def read_record(path: str) -> dict[str, Any]:
    """An earlier ``record.json``.

    Raises:
      UsageError: it is none.
    """
    try:
        record = parse_json(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
        return {"steps": record["steps"], "curves": record["curves"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"compare {path} is not the record.json of a benchmark") from None


def peaks(values: flags.FlagValues) -> dict[str, float]:
    """FLOP/s of a large matrix product in each dtype, the most that this machine was seen to do."""
    from experiments.scale import roofline

    return {dtype: roofline.measured_peak_flops(dtype) for dtype in values["dtype"].value}


def measure_steps(
    configs: list[ExperimentConfig], values: flags.FlagValues
) -> list[dict[str, Any]]:
    """A row for each program of one network, dtype and batch size."""
    from bbo.compaction import timing
    from bbo.training.bar import progress_bar

    about, loops = {}, {}
    for row, loop in itertools.chain(
        jax_programs(configs, values), torch_programs(configs, values["against"].value)
    ):
        name = " ".join([row["framework"], row["variant"], row["noise"]])
        about[name], loops[name] = row, loop
    samples: dict[str, list[timing.Sample]] = {name: [] for name in loops}
    head = configs[0]
    text = f"{head.model.model} {head.train.dtype} batch {head.train.batch_size}"
    measured = timing.sample_in_turn(loops, seconds=values["seconds"].value)
    for name, sample in progress_bar(measured, unit="sample", desc=text):
        samples[name].append(sample)
    rows = []
    for name, row in about.items():
        plain = samples[" ".join([row["framework"], row["variant"], "none"])]
        found = {"to_no_noise": timing.ratio_in_turn(samples[name], plain)}
        rows.append(row | summary(row, samples[name]) | found)
    return rows


def jax_programs(
    configs: list[ExperimentConfig], values: flags.FlagValues
) -> Iterator[tuple[dict[str, Any], Any]]:
    """What each program is, and its loop."""
    from experiments.benchmark.programs import made_ready, training_steps

    variants = itertools.product(
        numbers(values, "members"), numbers(values, "steps_per_call"), values["generator"].value
    )
    for (members, calls, generator), config in itertools.product(variants, configs):
        config = override(config, steps_per_call=calls, generator=generator)
        first = made_ready(config)
        others = [made_ready(override(config, seed=seed), like=first) for seed in range(1, members)]
        steps = training_steps(first, *others)
        named = [f"{members} members"] * (members > 1) + [f"{calls} steps a call"] * (calls > 1)
        named += [generator] * (generator != "threefry")
        row = labels(config, "jax", ", ".join(named)) | steps._asdict()
        yield row, row.pop("loop")


def torch_programs(
    configs: list[ExperimentConfig], against: str
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The same in PyTorch, in each variant that may be the fastest."""
    if against != "torch":
        return
    from experiments.benchmark.programs import BATCHES, random_dataset
    from experiments.benchmark.pytorch.training import create_step, loop_of, variants

    for config in configs:
        count = BATCHES * config.train.batch_size
        images = random_dataset(config, train_images=count, test_images=1).training
        for variant in variants():
            step = create_step(config, variant, *images)
            yield labels(config, "torch", variant.text), loop_of(step)


def labels(config: ExperimentConfig, framework: str, variant: str) -> dict[str, Any]:
    """What a row is about."""
    return {
        "framework": framework,
        "variant": variant,
        "model": config.model.model,
        "width": config.model.width,
        "dataset": config.data.dataset,
        "noise": config.noise.noise,
        "dtype": config.train.dtype,
        "batch_size": config.train.batch_size,
    }


def summary(row: dict[str, Any], samples: list[Any]) -> dict[str, Any]:
    """The numbers of a row: quartiles of the seconds of a step, of the quietest samples."""
    import numpy as np

    from bbo.compaction import timing

    used = timing.quietest(samples)
    seconds = [sample.seconds / row.get("steps_per_call", 1) for sample in used]
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return {
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "samples": len(used),
        "of_samples": len(samples),
        "others": float(np.max([sample.others for sample in used])),
        "images_per_second": row["batch_size"] * row.get("members", 1) / float(median),
    }


def measure_curve(config: ExperimentConfig, values: flags.FlagValues) -> dict[str, Any]:
    """The time of a pruning curve beside that of as many evaluations."""
    from experiments.benchmark.programs import curve_time, made_ready

    run = made_ready(config, test_images=values["test_images"].value)
    with tempfile.TemporaryDirectory() as folder:
        found = curve_time(run, values["curve_points"].value, pathlib.Path(folder))
    images = {"test_images": values["test_images"].value}
    return labels(config, "jax", "") | images | found._asdict()
