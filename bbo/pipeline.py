"""The one composer: train, prune, evaluate, and leave a folder behind."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import pandas as pd

from bbo import config as configs
from bbo import cost, report, stages
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
    started = time.monotonic()
    run = stages.set_up(config)
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"config": configs.to_json(config), "environment": workdirs.environment()}
    workdirs.write_json(workdir / "config.json", record)
    network = stages.train_network(run, workdir)
    trained = time.monotonic()
    report.write_curve(workdir / "curve.csv", stages.prune_network(run, network))
    curve = report.read_curve(workdir / "curve.csv")
    report.plot_curve(workdir / "curve.png", curve, title=report.title(config))
    summary = {
        "selected_epoch": int(network.epoch),
        "num_params": cost.num_params(network.variables["params"]),
        "macs": sum(run.macs.values()),
        "seconds_to_train": round(trained - started, 2),
        "seconds_to_prune_and_evaluate": round(time.monotonic() - trained, 2),
    }
    workdirs.write_json(workdir / "summary.json", summary)
    return Result(workdir, curve, summary)


def read_result(workdir: pathlib.Path) -> Result:
    """The result of a finished run, from its folder."""
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return Result(workdir, report.read_curve(workdir / "curve.csv"), summary)
