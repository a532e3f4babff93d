"""Removes the filters of a finished run for real, and measures what that saves.

  python -m experiments.compact --workdir=RUN --sparsity=0.5 --out=DIR
  python -m experiments.compact --workdir=RUN --macs=0.25 --fine_tune_epochs=5 --out=DIR
  python -m experiments.compact --workdir=RUN --latency=0.5 --latency_batch_size=1 --out=DIR

The network of the run is pruned, mended, and rebuilt without the channels that are dead; that it
equals the pruned one is checked. DIR then holds the network (network.json and .npz, to be read with
bbo.compaction.export.load_network), as StableHLO and as ONNX, each checked in a process of its own;
cost.csv, cost.png and latency.csv; and, last, summary.json. Exit status: 0 done, 1 it failed, 2 a
mistake.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from bbo.files import write_json, write_text
from bbo.settings.catalog import CRITERIA, RECOVERIES, SCOPES
from bbo.settings.installed import how_to_install
from bbo.settings.provenance import environment
from bbo.types import UsageError
from experiments.command_line import setting_flags, xla

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " compact"}
MEASURES = ("sparsity", "macs", "params", "latency")
"""One of them says how far to go."""
FORMATS = {"stablehlo": ("flatbuffers",), "onnx": ("jax2onnx", "onnxruntime")}
"""What can be exported, and what that needs."""
EXPORTED_IMAGES = 8
"""With which exported networks are checked."""
flags.DEFINE_string("workdir", None, "folder of a finished run", **_PLACE)
flags.DEFINE_string("out", None, "folder for the smaller network", **_PLACE)
flags.DEFINE_float("sparsity", None, "share of the filters to remove", **_PLACE)
flags.DEFINE_float("macs", None, "or the largest share of multiply-adds to keep", **_PLACE)
flags.DEFINE_float("params", None, "or the largest share of parameters to keep", **_PLACE)
flags.DEFINE_float("latency", None, "or the largest share of the time in jax", **_PLACE)
flags.DEFINE_integer(
    "latency_batch_size", 64, "of how many images that time is", lower_bound=1, **_PLACE
)
flags.DEFINE_enum("scope", "group", list(SCOPES), "what competes, see experiments.run", **_PLACE)
flags.DEFINE_enum("criterion", "l2", list(CRITERIA), "score of importance", **_PLACE)
flags.DEFINE_enum("recovery", "batch_norm", list(RECOVERIES), "what mends it", **_PLACE)
flags.DEFINE_integer("round_to", 1, "keep a multiple of this many filters", lower_bound=1, **_PLACE)
flags.DEFINE_integer(
    "fine_tune_epochs", 0, "train the small network further, without noise", lower_bound=0, **_PLACE
)
flags.DEFINE_integer(
    "iterations",
    1,
    "prune and train on so many times, less each time (a cubic schedule)",
    lower_bound=1,
    **_PLACE,
)
flags.DEFINE_boolean(
    "rewind",
    False,
    "train on from the weights before all training, as for lottery tickets",
    **_PLACE,
)
flags.DEFINE_string(
    "prune_on",
    None,
    "regular expression on kernel names: others stay [default: as the run]",
    **_PLACE,
)
flags.DEFINE_float("fine_tune_rate", 0.01, "learning rate of that, to zero by a cosine", **_PLACE)
flags.DEFINE_multi_enum("format", list(FORMATS), list(FORMATS), "what to export", **_PLACE)
flags.DEFINE_list("batch_sizes", ["1", "8", "64", "256"], "to measure latency with", **_PLACE)
flags.DEFINE_float("seconds", 1.0, "to measure each latency for", lower_bound=0, **_PLACE)
flags.DEFINE_string("data_dir", None, "where the data lies [default: as the run]", **_PLACE)


def main(values: flags.FlagValues) -> None:
    """Makes the smaller network and shows what it saves."""
    (measure_of, share), settings = check(values)
    folder, out = (pathlib.Path(values[name].value).expanduser() for name in ("workdir", "out"))
    xla.prepare(fusions=False)
    # Only now the heavy part: a mistake is told within a second.
    from bbo.pipeline.finished import read_network, read_run
    from bbo.pipeline.run import set_up
    from bbo.pipeline.shrinking.goal import Goal
    from bbo.pipeline.shrinking.gradual import shrink_gradually
    from bbo.pipeline.shrinking.shrink import accuracy_of, for_removal
    from bbo.training.devices import check_platform

    check_platform()
    try:
        held = read_run(folder, folder.name).config
    except UsageError as error:
        raise UsageError(f"{folder} holds no finished run: {error}; name one") from None
    config = for_removal(held, **settings)
    dense = read_network(folder).variables
    images, seconds = values["latency_batch_size"].value, values["seconds"].value
    timed = {"latency_batch_size": images} if measure_of == "latency" else {}
    shrunk = shrink_gradually(
        config,
        dense,
        Goal(measure_of, share, images, seconds),
        iterations=values["iterations"].value,
        train=training(values, config, out),
        round_to=values["round_to"].value,
        memory=out / "latencies.jsonl" if values["fine_tune_epochs"].value else None,
    )
    networks = {"dense": dense, "pruned": shrunk.masked, "compact": shrunk.variables}
    accuracies = {name: accuracy_of(config, net) for name, net in networks.items()}
    run = set_up(config)
    del networks["pruned"]
    summary = {
        "run": str(folder),
        "asked": {measure_of: share, **timed, **settings, "iterations": values["iterations"].value},
        "sparsity": shrunk.sparsity,
        "left": shrunk.left,
        "cannot_be_removed": [filters._asdict() for filters in shrunk.staying],
        "difference_of_logits": shrunk.difference,
        "test_top1": accuracies,
        "files": export_networks(values, run, networks, out),
        "environment": environment(),
    }
    found = measure(values, run, networks, out)
    write_json(out / "summary.json", summary)
    show(found, shrunk, accuracies, out)


def check(values: flags.FlagValues) -> tuple[tuple[str, float], dict[str, Any]]:
    """How far to go, and settings of the run that change.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    for name, what in (("workdir", "a finished run"), ("out", "the smaller network")):
        if not values[name].value:
            raise UsageError(f"{name} is missing; name a folder for {what}, as in --{name}=DIR")
    targets = {name: values[name].value for name in MEASURES}
    given = [(name, share) for name, share in targets.items() if share is not None]
    if len(given) != 1:
        raise UsageError(f"give one of {', '.join(MEASURES)}, as in --sparsity=0.5")
    name, share = given[0]
    if not (0 <= share < 1 if name == "sparsity" else 0 < share <= 1):
        allowed = "[0, 1)" if name == "sparsity" else "(0, 1]"
        raise UsageError(f"{name} is {share}; it must be in {allowed}")
    batch_sizes(values)
    needed = {name for chosen in values["format"].value for name in FORMATS[chosen]}
    if missing := sorted(name for name in needed if not importlib.util.find_spec(name)):
        raise UsageError(
            f"{' and '.join(missing)} not installed: {how_to_install(*missing)}; "
            "or leave a format out, as with --format=stablehlo"
        )
    if values["rewind"].value and not values["fine_tune_epochs"].value:
        raise UsageError("rewind trains anew; give fine_tune_epochs, as many as the run had")
    names = ("scope", "criterion", "prune_on", "data_dir")
    settings = {name: values[name].value for name in names if values[name].value is not None}
    return given[0], settings | {"recovery": (values["recovery"].value,)}


def batch_sizes(values: flags.FlagValues) -> list[int]:
    """Those to be measured.

    Raises:
      UsageError: one is no whole number from 1 on.
    """
    sizes = setting_flags.numbers("batch_sizes", values["batch_sizes"].value)
    if not sizes or any(size < 1 or size != int(size) for size in sizes):
        raise UsageError(f"batch_sizes is {values['batch_sizes'].value}; give some, as in 1,8,64")
    return [int(size) for size in sizes]


def training(values: flags.FlagValues, config: Any, out: pathlib.Path) -> Callable[..., Any]:
    """What becomes of the network after each iteration: it is trained on, if that is asked for."""
    from bbo.compaction.removal import smaller
    from bbo.pipeline.run import set_up, variables_of
    from bbo.pipeline.shrinking.gradual import fine_tune
    from bbo.training import preemption

    epochs, rate = values["fine_tune_epochs"].value, values["fine_tune_rate"].value
    first = variables_of(set_up(config).state) if values["rewind"].value else None

    def train(shrunk: Any, number: int) -> Any:
        nonlocal first
        if not epochs:
            return shrunk.variables
        if first is not None:
            first = smaller(first, shrunk.cut)
        with preemption.watch(distributed=False) as should_stop:
            return fine_tune(
                first or shrunk.variables,
                config,
                out / f"fine_tune_{number}",
                should_stop,
                epochs=epochs,
                learning_rate=rate,
            )

    return train


def networks_of(run: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Each set of variables with the function that runs it."""
    from bbo.compaction.timing import Timed
    from bbo.models.create import kept_channels
    from bbo.pipeline.configured import model_of

    return {
        name: Timed(model_of(run.config, kept=kept_channels(of["params"])).apply, of)
        for name, of in variables.items()
    }


def export_networks(
    values: flags.FlagValues, run: Any, variables: dict[str, Any], out: pathlib.Path
) -> list[dict[str, Any]]:
    """Writes ``network.*`` of the smaller network, and ``dense.onnx`` to compare with."""
    from bbo.compaction import export
    from bbo.models.create import kept_channels
    from bbo.pipeline.shrinking.shrink import example_images

    small = variables["compact"]
    spec = {
        "model": dataclasses.asdict(run.config.model),
        "dataset": run.config.data.dataset,
        "kept_channels": kept_channels(small["params"]),
    }
    export.save_network(out, spec=spec, variables=small)
    example = example_images(run, EXPORTED_IMAGES)
    checks = []
    for name, network in networks_of(run, variables).items():
        stem = "network" if name == "compact" else name
        if "onnx" in values["format"].value:
            checks.append(export.write_onnx(out / f"{stem}.onnx", *network, example))
        if "stablehlo" in values["format"].value and name == "compact":
            checks.append(export.write_stablehlo(out / f"{stem}.stablehlo", *network, example))
    return [check._asdict() | {"path": check.path.name} for check in checks]


def measure(
    values: flags.FlagValues, run: Any, variables: dict[str, Any], out: pathlib.Path
) -> Any:
    """Writes ``cost.csv``, ``latency.csv`` and ``cost.png``; gives the table."""
    import pandas as pd

    from bbo.compaction import timing
    from bbo.pipeline.curve_file import save_figure
    from bbo.pipeline.shrinking.shrink import example_images
    from experiments.compact import savings

    sizes, networks = batch_sizes(values), networks_of(run, variables)
    shape = run.config.data.info.image_shape
    counts = {
        name: savings.counted(network, shape, max(sizes)) for name, network in networks.items()
    }
    runtimes = {"jax": {name: timing.jax_call(of) for name, of in networks.items()}}
    files = {"dense": out / "dense.onnx", "compact": out / "network.onnx"}
    if "onnx" in values["format"].value:
        for name, path in files.items():
            counts[name]["bytes of ONNX"] = path.stat().st_size
        runtimes["onnxruntime"] = {name: timing.onnx_call(path) for name, path in files.items()}
    images = example_images(run, max(sizes))
    times = timing.latencies(runtimes, images, batch_sizes=sizes, seconds=values["seconds"].value)
    found = savings.table(counts, times)
    for name, rows in (("latency", times), ("cost", found)):
        write_text(out / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
    title = f"{run.config.model.model} on {run.config.data.dataset}: what is left"
    save_figure(out / "cost.png", savings.savings_figure(found, title))
    return found


def show(found: Any, shrunk: Any, accuracies: dict[str, float], out: pathlib.Path) -> None:
    """The table, what could not be removed, the accuracies and the paths."""
    from bbo.pipeline.shrinking.unremovable import staying_text
    from experiments.compact import savings
    from experiments.report import tables

    print(tables.markdown(savings.table_text(found)))
    print(f"\n{staying_text(shrunk.staying)}")
    if "latency" in shrunk.left:
        print(f"Time in jax when it was chosen: {shrunk.left['latency']:.1%} of the dense one's")
    texts = [f"{name} {100 * accuracy:.2f} %" for name, accuracy in accuracies.items()]
    print(f"Test accuracy: {', '.join(texts)}")
    print(f"Plot:   {out / 'cost.png'}\nFolder: {out}")
