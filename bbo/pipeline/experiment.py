"""The one composer: train, prune, evaluate, and leave a folder behind."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bbo.compaction.cost import num_params
from bbo.files import (
    SUMS,
    json_text,
    name_aside,
    parse_json,
    read_lines,
    set_aside,
    sums_of,
    write_json,
    write_text,
)
from bbo.pipeline.curve_file import plot_curve, read_curve, subtitle, title, write_curve
from bbo.pipeline.epoch_log import tell
from bbo.pipeline.finished import damaged_records
from bbo.pipeline.prunable import left_out
from bbo.pipeline.run import Run, set_up
from bbo.pipeline.stages import Stage, train_and_prune
from bbo.pipeline.vmapped import check_alike, train_together
from bbo.settings.config import ExperimentConfig, to_json
from bbo.settings.workdir import claim, held_for, is_finished, record_start
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
        ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``curve.csv``, ``curve.png``, their
        digests in ``SHA256SUMS`` and, last of all, ``summary.json``. What is damaged of a finished
        run is set aside and made again.
      should_stop: asked throughout, see ``preemption.watch``.

    Raises:
      UsageError: settings that do not fit each other, the data, the devices or the folder;
        nothing has been written then.
      RunError: training diverged, or the network could be measured at no pruning point.
      Preempted: by ``should_stop``; the same call goes on from there.
    """
    claim(workdir, config)
    # Asked once for all processes: they must not disagree about what comes next.
    if agreed(_is_whole(workdir, config)):
        return read_result(workdir)
    run = set_up(config)
    _tell_left_out(run)
    with _started(workdir, config) as finished:
        return read_result(workdir) if finished else _complete(run, workdir, should_stop)


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
        if not _is_whole(folder, config)
    ]
    made: list[Run] = []
    for config, _ in left:
        made.append(set_up(config, like=made[0] if made else None))
    for run in made[:1]:
        _tell_left_out(run)
    completed = {}
    with contextlib.ExitStack() as stack:
        finished = [stack.enter_context(_started(folder, config)) for config, folder in left]
        runs = {
            folder: run
            for run, (_, folder), is_done in zip(made, left, finished, strict=True)
            if not is_done
        }
        if len(runs) > 1:
            train_together(list(runs.values()), list(runs), should_stop)
        for folder, run in runs.items():
            completed[folder] = _complete(run, folder, should_stop)
    return [completed.get(folder) or read_result(folder) for folder in folders]


def _tell_left_out(run: Run) -> None:
    if names := left_out(run.config, run.state.params):
        tell(
            f"prune_on matches {', '.join(names)}, of which filters are classes: "
            "left out where whole filters are pruned"
        )


@contextlib.contextmanager
def _started(workdir: pathlib.Path, config: ExperimentConfig) -> Iterator[bool]:
    """Within this context the folder is this run's alone, and says so in ``config.json``.

    Gives whether the run has been finished by another process while this one waited.

    Raises:
      UsageError: in all processes, if the first one may not work there.
    """
    refusal = None
    with contextlib.ExitStack() as stack:
        if is_first_process():
            try:
                stack.enter_context(held_for(workdir, config))
            except UsageError as error:
                refusal = error
        if not agreed(refusal is None):
            raise refusal or UsageError(f"the first process may not work in {workdir} and says why")
        if is_first_process() and _set_damaged_aside(workdir, config):
            record_start(workdir, config)
        yield bool(agreed(is_finished(workdir)))


def _is_whole(workdir: pathlib.Path, config: ExperimentConfig) -> bool:
    """Whether a run is finished, and its files are as it has left them."""
    return is_finished(workdir) and not damaged_records(workdir, config)


def _set_damaged_aside(workdir: pathlib.Path, config: ExperimentConfig) -> bool:
    """Makes a finished run with damaged files one that is not finished; nothing is deleted.

    Returns:
      whether it was such a run.
    """
    damaged = damaged_records(workdir, config) if is_finished(workdir) else []
    if not damaged:
        return False
    tell(
        f"{workdir} is damaged: {', '.join(damaged)}; kept under another name, and made again from "
        "the last checkpoint"
    )
    if "config.json" in damaged:  # the settings are those that ``claim`` has compared
        held = workdir / "config.json"
        shutil.copy2(held, name_aside(held))  # never without one: it says whose folder this is
        write_json(held, {"config": to_json(config), "environments": []})
    # The epochs cannot be made again: what is left of them is taken up where training goes on.
    left = ("config.json", *(name for name in damaged if name.endswith("metrics.jsonl")))
    for path in (workdir / name for name in sorted({*damaged, "summary.json"} - {*left})):
        if path.exists():
            set_aside(path)
    return True


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
    summary = {
        "unpruned_test_top1": _unpruned(curve),
        "seconds_to_train": _seconds_to_train(config, stages),
        **summary,
        "failed_points": len(failed),
    }
    text = json_text(summary)
    epochs = [stage.folder.relative_to(workdir) / "metrics.jsonl" for stage in stages]
    names = map(str, ("config.json", "curve.csv", "curve.png", *epochs))
    there = [name for name in names if (workdir / name).exists()]  # metrics may have been lost
    write_text(workdir / SUMS, sums_of(workdir, there, **{"summary.json": text}))
    write_text(workdir / "summary.json", text)
    # Not before: a run that is ended in between would measure all again.
    _forget(stages)
    return Result(workdir, curve, summary)


def _seconds_to_train(config: ExperimentConfig, stages: list[Stage]) -> float | None:
    """All epochs together; None if the records of some were lost."""
    found = [epoch for stage in stages for epoch in read_lines(stage.folder / "metrics.jsonl")]
    seconds = [epoch["seconds"] for epoch in found if "seconds" in epoch]
    again = config.iterations.retrain_epochs * (len(stages) - 1)
    return round(sum(seconds), 2) if len(seconds) == config.train.epochs + again else None


def _forget(stages: list[Stage]) -> None:
    """Removes the points that were kept while others were measured."""
    for stage in stages:
        (stage.folder / "curve.jsonl").unlink()


def _unpruned(curve: pd.DataFrame) -> dict[str, float]:
    """Test accuracy at sparsity 0 by recovery, if that was asked for."""
    rows = curve[(curve["sparsity"] == 0) & curve["test_top1"].notna()]
    return rows.groupby("recovery", sort=False)["test_top1"].first().round(4).to_dict()


def read_result(workdir: pathlib.Path) -> Result:
    """The result of a finished run, from its folder, whose files are whole."""
    summary = parse_json((workdir / "summary.json").read_text(encoding="utf-8"))
    return Result(workdir, read_curve(workdir / "curve.csv"), summary)
