"""Removes the filters of a finished run for real, and measures what that saves.

  python -m experiments.compact --workdir=RUN --sparsity=0.5 --out=DIR
  python -m experiments.compact --workdir=RUN --macs=0.25 --scope=local --out=DIR

The network of the run is pruned, mended, and rebuilt without the channels that are dead; that it
equals the pruned one is checked. DIR then holds the network (network.json and .npz, to be read with
bbo.export.load_network), as StableHLO and as ONNX, each checked in a process of its own; cost.csv,
cost.png and latency.csv; and, last, summary.json. Exit status: 0 done, 1 it failed, 2 a mistake.
"""

import dataclasses
import pathlib
import sys
from typing import Any

from absl import flags

from bbo import workdir as workdirs
from bbo.catalog import CRITERIA, RECOVERIES, SCOPES
from bbo.types import UsageError
from experiments import cli, options

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " compact"}
FORMATS = ("stablehlo", "onnx")
EXPORTED_IMAGES = 8
"""With which exported networks are checked."""
flags.DEFINE_string("workdir", None, "folder of a finished run", **_PLACE)
flags.DEFINE_string("out", None, "folder for the smaller network", **_PLACE)
flags.DEFINE_float("sparsity", None, "share of the filters to remove", **_PLACE)
flags.DEFINE_float("macs", None, "or the largest share of multiply-adds to keep", **_PLACE)
flags.DEFINE_enum("scope", "group", list(SCOPES), "what competes, see experiments.run", **_PLACE)
flags.DEFINE_enum("criterion", "l2", list(CRITERIA), "score of importance", **_PLACE)
flags.DEFINE_enum("recovery", "batch_norm", list(RECOVERIES), "what mends it", **_PLACE)
flags.DEFINE_integer("round_to", 1, "keep a multiple of this many filters", lower_bound=1, **_PLACE)
flags.DEFINE_integer(
    "fine_tune_epochs", 0, "train the small network further, without noise", lower_bound=0, **_PLACE
)
flags.DEFINE_float("fine_tune_rate", 0.01, "learning rate of that, to zero by a cosine", **_PLACE)
flags.DEFINE_multi_enum("format", list(FORMATS), list(FORMATS), "what to export", **_PLACE)
flags.DEFINE_list("batch_sizes", ["1", "8", "64", "256"], "to measure latency with", **_PLACE)
flags.DEFINE_float("seconds", 1.0, "to measure each latency for", lower_bound=0, **_PLACE)
flags.DEFINE_string("data_dir", None, "where the data lies [default: as the run]", **_PLACE)


def main(values: flags.FlagValues) -> None:
    """Makes the smaller network and shows what it saves."""
    asked, settings = check(values)
    folder, out = (pathlib.Path(values[name].value).expanduser() for name in ("workdir", "out"))
    # Only now the heavy part: a mistake is told within a second.
    from bbo import fitting, runs, shrinking, study

    config = shrinking.for_removal(study.read_run(folder, folder.name).config, **settings)
    dense = fitting.read_network(folder).variables
    run = runs.set_up(config)
    shrunk = shrinking.shrink(run, dense, **asked)
    accuracies = {
        name: shrinking.accuracy_of(config, variables)
        for name, variables in (("dense", dense), ("pruned", shrunk.masked))
    }
    shrunk = tuned(values, config, shrunk, out)
    accuracies["compact"] = shrinking.accuracy_of(config, shrunk.variables)
    checks = export_networks(values, run, {"dense": dense, "compact": shrunk.variables}, out)
    found = measure(values, run, {"dense": dense, "compact": shrunk.variables}, out)
    summary = {
        "run": str(folder),
        **asked,
        **settings,
        "sparsity": shrunk.sparsity,
        "macs_compact": shrunk.macs_compact,
        "difference_of_logits": shrunk.difference,
        "test_top1": accuracies,
        "files": checks,
        "environment": workdirs.environment(),
    }
    workdirs.write_json(out / "summary.json", summary)
    show(found, accuracies, out)


def check(values: flags.FlagValues) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is asked of the removal, and settings of the run that change.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    for name, what in (("workdir", "a finished run"), ("out", "the smaller network")):
        if not values[name].value:
            raise UsageError(f"{name} is missing; name a folder for {what}, as in --{name}=DIR")
    asked = {name: values[name].value for name in ("sparsity", "macs", "round_to")}
    if (asked["sparsity"] is None) == (asked["macs"] is None):
        raise UsageError("give one of sparsity and macs, as in --sparsity=0.5")
    if asked["sparsity"] is not None and not 0 <= asked["sparsity"] < 1:
        raise UsageError(f"sparsity is {asked['sparsity']}; it must be in [0, 1)")
    if asked["macs"] is not None and not 0 < asked["macs"] <= 1:
        raise UsageError(f"macs is {asked['macs']}; it must be in (0, 1]")
    batch_sizes(values)
    settings = {name: values[name].value for name in ("scope", "criterion")}
    settings["recovery"] = (values["recovery"].value,)
    if values["data_dir"].value is not None:
        settings["data_dir"] = values["data_dir"].value
    return asked, settings


def batch_sizes(values: flags.FlagValues) -> list[int]:
    """Those to be measured.

    Raises:
      UsageError: one is no whole number from 1 on.
    """
    sizes = options.numbers("batch_sizes", values["batch_sizes"].value)
    if not sizes or any(size < 1 or size != int(size) for size in sizes):
        raise UsageError(f"batch_sizes is {values['batch_sizes'].value}; give some, as in 1,8,64")
    return [int(size) for size in sizes]


def tuned(values: flags.FlagValues, config: Any, shrunk: Any, out: pathlib.Path) -> Any:
    """The network after fine-tuning, if that is asked for."""
    epochs = values["fine_tune_epochs"].value
    if not epochs:
        return shrunk
    from bbo import preemption, shrinking

    rate = values["fine_tune_rate"].value
    with preemption.watch(distributed=False) as should_stop:
        variables = shrinking.fine_tune(
            shrunk, config, out / "fine_tune", should_stop, epochs=epochs, learning_rate=rate
        )
    return shrunk._replace(variables=variables)


def networks_of(run: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Each set of variables with the function that runs it."""
    from bbo import models, savings, shrinking

    return {
        name: savings.Network(
            shrinking.rebuild(run.config, models.kept_channels(of["params"])).apply, of
        )
        for name, of in variables.items()
    }


def export_networks(
    values: flags.FlagValues, run: Any, variables: dict[str, Any], out: pathlib.Path
) -> list[dict[str, Any]]:
    """Writes ``network.*`` of the smaller network, and ``dense.onnx`` to compare with."""
    from bbo import export, models, shrinking

    small = variables["compact"]
    spec = {
        "model": dataclasses.asdict(run.config.model),
        "dataset": run.config.data.dataset,
        "kept_channels": models.kept_channels(small["params"]),
    }
    export.save_network(out, spec=spec, variables=small)
    example = shrinking.example_images(run, EXPORTED_IMAGES)
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

    from bbo import report, savings, shrinking

    sizes, networks = batch_sizes(values), networks_of(run, variables)
    shape = run.images["test"].image.shape[1:]
    counts = {
        name: savings.counted(network, shape, max(sizes)) for name, network in networks.items()
    }
    runtimes = {"jax": {name: savings.jax_call(of) for name, of in networks.items()}}
    files = {"dense": out / "dense.onnx", "compact": out / "network.onnx"}
    if "onnx" in values["format"].value:
        for name, path in files.items():
            counts[name]["bytes of ONNX"] = path.stat().st_size
        runtimes["onnxruntime"] = {name: savings.onnx_call(path) for name, path in files.items()}
    images = shrinking.example_images(run, max(sizes))
    times = savings.latencies(runtimes, images, batch_sizes=sizes, seconds=values["seconds"].value)
    found = savings.table(counts, times)
    for name, rows in (("latency", times), ("cost", found)):
        workdirs.write_text(out / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
    title = f"{run.config.model.model} on {run.config.data.dataset}: what is left"
    report.save_figure(out / "cost.png", savings.savings_figure(found, title))
    return found


def show(found: Any, accuracies: dict[str, float], out: pathlib.Path) -> None:
    """The table, the accuracies and the paths."""
    from bbo import savings, tables

    print(tables.markdown(savings.table_text(found)))
    texts = [f"{name} {100 * accuracy:.2f} %" for name, accuracy in accuracies.items()]
    print(f"\nTest accuracy: {', '.join(texts)}")
    print(f"Plot:   {out / 'cost.png'}\nFolder: {out}")


if __name__ == "__main__":
    cli.leave(cli.run_program(main, FLAGS, sys.argv))
