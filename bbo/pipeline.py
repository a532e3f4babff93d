"""The one composer: train, prune, evaluate, and leave a folder behind."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import pandas as pd

from bbo import cost, metrics, report, stages
from bbo import workdir as workdirs
from bbo.config import ExperimentConfig


class Result(NamedTuple):
    """What a run gives."""

    workdir: pathlib.Path
    curve: pd.DataFrame
    """One row per pruning point, see ``evaluate.pruning_curve``; accuracies are fractions."""
    summary: dict[str, Any]


def run_experiment(config: ExperimentConfig, workdir: pathlib.Path) -> Result:
    """Trains, prunes, evaluates; resumes what was interrupted; a finished run is only read.

    Args:
      config: all settings.
      workdir: the folder of this run, made if absent. Left in it: ``config.json``,
        ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``curve.csv``, ``curve.png`` and,
        last of all, ``summary.json``.

    Raises:
      UsageError: settings that do not fit each other, the data, the devices or the folder;
        nothing has been written then.
      RunError: training diverged.
    """
    workdirs.claim(workdir, config)
    if workdirs.is_finished(workdir):
        return read_result(workdir)
    run = stages.set_up(config)
    workdirs.record_start(workdir, config)
    network = stages.train_network(run, workdir)
    trained = time.monotonic()
    report.write_curve(workdir / "curve.csv", stages.prune_network(run, network))
    curve = report.read_curve(workdir / "curve.csv")
    heading = f"{report.title(config)}\n{report.subtitle(config)}"
    report.plot_curve(workdir / "curve.png", curve, title=heading)
    epochs = metrics.read_metrics(workdir / "metrics.jsonl")
    summary = {
        "unpruned_test_top1": _unpruned(curve),
        "selected_epoch": int(network.epoch),
        "num_params": cost.num_params(network.variables["params"]),
        "macs": sum(run.macs.values()),
        "seconds_to_train": round(sum(r["seconds"] for r in epochs), 2),
        "seconds_to_prune_and_evaluate": round(time.monotonic() - trained, 2),
    }
    workdirs.write_json(workdir / "summary.json", summary)
    return Result(workdir, curve, summary)


def _unpruned(curve: pd.DataFrame) -> dict[str, float]:
    """Test accuracy at sparsity 0 by recovery, if that was asked for."""
    rows = curve[curve["sparsity"] == 0].groupby("recovery", sort=False)
    return rows["test_top1"].first().round(4).to_dict()


def read_result(workdir: pathlib.Path) -> Result:
    """The result of a finished run, from its folder."""
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return Result(workdir, report.read_curve(workdir / "curve.csv"), summary)
