"""The one composer: train, prune, evaluate, and leave a folder behind."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bbo.compaction.cost import num_params
from bbo.files import parse_json, read_lines, write_json
from bbo.pipeline.curve_file import plot_curve, read_curve, subtitle, title, write_curve
from bbo.pipeline.run import Run, set_up
from bbo.pipeline.stages import Stage, train_and_prune
from bbo.pipeline.vmapped import check_alike, train_together
from bbo.settings.config import ExperimentConfig
from bbo.settings.workdir import claim, held, is_finished, record_start
from bbo.training import preemption
from bbo.training.devices import agreed, is_first_process
from bbo.types import RunError, UsageError


class Result(NamedTuple):
    """What a run gives."""

    workdir: pathlib.Path
    curve: pd.DataFrame
    """One row per pruning point, see ``points.pruning_curve``; accuracies are fractions."""
    summary: dict[str, Any]


def run_experiment(
    config: ExperimentConfig,
    workdir: pathlib.Path,
    should_stop: preemption.ShouldStop = preemption.never,
) -> Result:
    """Trains, prunes, evaluates; resumes what was interrupted; a finished run is only read.

    In a run of many processes the first one writes, and it alone is sure to have the whole result.

    Args:
      config: all settings.
      workdir: the folder of this run, made if absent. Left in it: ``config.json``,
        ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``curve.csv``, ``curve.png`` and,
        last of all, ``summary.json``.
      should_stop: asked throughout, see ``preemption.watch``.

    Raises:
      UsageError: settings that do not fit each other, the data, the devices or the folder;
        nothing has been written then.
      RunError: training diverged, or the network could be measured at no pruning point.
      Preempted: by ``should_stop``; the same call goes on from there.
    """
    claim(workdir, config)
    # Asked once for all processes: they must not disagree about what comes next.
    if agreed(is_finished(workdir)):
        return read_result(workdir)
    run = set_up(config)
    with _started(workdir, config):
        return _complete(run, workdir, should_stop)


def run_members(
    configs: Sequence[ExperimentConfig],
    folders: Sequence[pathlib.Path],
    should_stop: preemption.ShouldStop = preemption.never,
) -> list[Result]:
    """Several experiments that are trained together, as one program; else as ``run_experiment``.

    Args:
      configs: alike but for ``seed`` and ``rate``.
      folders: of each.
      should_stop: asked throughout.

    Raises:
      UsageError, RunError, Preempted: as ``run_experiment``; the settings differ in more, or this
        is one process of many.
    """
    check_alike(configs)
    for config, folder in zip(configs, folders, strict=True):
        claim(folder, config)
    left = [
        (config, folder)
        for config, folder in zip(configs, folders, strict=True)
        if not is_finished(folder)
    ]
    made: list[Run] = []
    for config, _ in left:
        made.append(set_up(config, like=made[0] if made else None))
    completed = {}
    with contextlib.ExitStack() as stack:
        for config, folder in left:
            stack.enter_context(_started(folder, config))
        if len(left) > 1:
            train_together(made, [folder for _, folder in left], should_stop)
        for run, (_, folder) in zip(made, left, strict=True):
            completed[folder] = _complete(run, folder, should_stop)
    return [completed.get(folder) or read_result(folder) for folder in folders]


@contextlib.contextmanager
def _started(workdir: pathlib.Path, config: ExperimentConfig) -> Iterator[None]:
    """Within this context the folder is this run's alone, and says so in ``config.json``.

    Raises:
      UsageError: in all processes, if the first one may not work there.
    """
    refusal = None
    with contextlib.ExitStack() as stack:
        if is_first_process():
            try:
                stack.enter_context(held(workdir))
            except UsageError as error:
                refusal = error
        if not agreed(refusal is None):
            raise refusal or UsageError(f"the first process may not work in {workdir} and says why")
        if is_first_process():
            record_start(workdir, config)
        yield


def _complete(run: Run, workdir: pathlib.Path, should_stop: preemption.ShouldStop) -> Result:
    """Trains on, prunes, evaluates and writes."""
    stages = train_and_prune(run, workdir, should_stop)
    network = stages[0].network
    rows = [row for stage in stages for row in stage.rows]
    seconds = sum(row.pop("seconds", 0.0) for row in rows)
    summary = {
        "selected_epoch": int(network.epoch),
        "num_params": num_params(network.variables["params"]),
        "macs": sum(run.macs.values()),
        "seconds_to_prune_and_evaluate": round(seconds, 2),
    }
    if not is_first_process():
        return Result(workdir, pd.DataFrame(rows), summary)
    return _finish(run.config, workdir, stages, summary)


def _finish(
    config: ExperimentConfig,
    workdir: pathlib.Path,
    stages: list[Stage],
    summary: dict[str, Any],
) -> Result:
    """Writes the curve and, last of all, the summary.

    Raises:
      RunError: there is nothing to write; the same command prunes and measures again.
    """
    rows = [row for stage in stages for row in stage.rows]
    failed = [row["error"] for row in rows if row.get("error")]
    if len(failed) == len(rows):
        _forget(stages)
        raise RunError(f"no point of the pruning curve could be measured; the first: {failed[0]}")
    write_curve(workdir / "curve.csv", rows)
    curve = read_curve(workdir / "curve.csv")
    heading = f"{title(config)}\n{subtitle(config)}"
    plot_curve(workdir / "curve.png", curve, title=heading)
    epochs = [epoch for stage in stages for epoch in read_lines(stage.folder / "metrics.jsonl")]
    summary = {
        "unpruned_test_top1": _unpruned(curve),
        "seconds_to_train": round(sum(epoch["seconds"] for epoch in epochs), 2),
        **summary,
        "failed_points": len(failed),
    }
    write_json(workdir / "summary.json", summary)
    # Not before: a run that is ended in between would measure all again.
    _forget(stages)
    return Result(workdir, curve, summary)


def _forget(stages: list[Stage]) -> None:
    """Removes the points that were kept while others were measured."""
    for stage in stages:
        (stage.folder / "curve.jsonl").unlink()


def _unpruned(curve: pd.DataFrame) -> dict[str, float]:
    """Test accuracy at sparsity 0 by recovery, if that was asked for."""
    rows = curve[(curve["sparsity"] == 0) & curve["test_top1"].notna()]
    return rows.groupby("recovery", sort=False)["test_top1"].first().round(4).to_dict()


def read_result(workdir: pathlib.Path) -> Result:
    """The result of a finished run, from its folder."""
    summary = parse_json((workdir / "summary.json").read_text(encoding="utf-8"))
    return Result(workdir, read_curve(workdir / "curve.csv"), summary)
