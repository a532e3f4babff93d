"""Finished runs, read from their folders."""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bbo.files import changed_files, parse_json
from bbo.pipeline.curve_file import read_curve
from bbo.settings.config import ExperimentConfig, from_json
from bbo.settings.workdir import RECORDS, is_finished
from bbo.types import UsageError

if TYPE_CHECKING:
    from bbo.pipeline.run import Trained

_COSTS = ("achieved_sparsity", "macs_kept", "params_kept")
NEEDED = {"granularity", "recovery", "sparsity", *_COSTS, "test_top1"}
"""Columns of a curve without which nothing can be compared or drawn."""


class FinishedRun(NamedTuple):
    """A run, read from its folder."""

    name: str
    """Where it is, below the folder that was searched: ``digits/0003``."""
    config: ExperimentConfig
    curve: pd.DataFrame
    environments: list[dict[str, Any]]
    """What it ran on, see ``provenance.environment``."""


def damaged_records(folder: pathlib.Path, config: ExperimentConfig) -> list[str]:
    """Which files of a finished run are not as it left them.

    Of a run from before digests were written along is known only what cannot be read, and a curve
    that lacks points.
    """
    if (changed := changed_files(folder, RECORDS)) is not None:
        return changed
    wrong = []
    for name, read in {"curve.csv": _check_curve, "summary.json": _check_summary}.items():
        try:
            read(folder / name, config)
        except (OSError, ValueError, KeyError, TypeError):
            wrong.append(name)
    return wrong


def _check_summary(path: pathlib.Path, config: ExperimentConfig) -> None:
    del config
    if not isinstance(parse_json(path.read_text(encoding="utf-8")), dict):
        raise ValueError("no summary")


def _check_curve(path: pathlib.Path, config: ExperimentConfig) -> None:
    curve, pruning, times = read_curve(path), config.pruning, config.iterations.prune_iterations
    sparsities = len(pruning.sparsities) if times == 1 else times + 1
    points = len(pruning.granularity) * sparsities * len(pruning.recovery)
    told = [name for name in ("test_top1", "error") if name in curve]
    measured = len(curve.dropna(how="all", subset=told))
    if measured < max(points, len(curve)):
        raise ValueError(f"{measured} of {points} points")


def read_run(folder: pathlib.Path, name: str) -> FinishedRun:
    """Reads the records of a finished run.

    Raises:
      UsageError: it is unfinished or damaged; the message says in what way.
    """
    missing = [record for record in RECORDS if not (folder / record).is_file()]
    if len(missing) == len(RECORDS):
        raise UsageError("not started")
    if missing:
        raise UsageError(f"unfinished: no {' and no '.join(missing)}")
    reading = ""
    try:
        reading = "summary.json"
        parse_json((folder / reading).read_text(encoding="utf-8"))
        reading = "config.json"
        record = parse_json((folder / reading).read_text(encoding="utf-8"))
        config = from_json(record["config"])
        environments = [dict(item) for item in record.get("environments", [])]
        reading = "curve.csv"
        curve = read_curve(folder / reading)
        if lacking := sorted(NEEDED - set(curve.columns)):
            raise ValueError(f"no column {', '.join(lacking)}")
        if damaged := damaged_records(folder, config):
            reading = ", ".join(damaged)
            raise ValueError("not as the run has left it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"damaged: {reading} cannot be read ({reason})") from None
    # An empty column is read as one of numbers.
    texts = curve["error"] if "error" in curve else [""] * len(curve)
    curve["error"] = [text if isinstance(text, str) else "" for text in texts]
    return FinishedRun(name, config, curve, environments)


def read_network(workdir: pathlib.Path) -> "Trained":
    """The network that a finished run selected and pruned, from its folder alone.

    ``finished.read_run`` reads the settings and the curve. No images are needed, and nothing is
    compiled.

    Args:
      workdir: of the run, which may have ended on other devices.

    Returns:
      its arrays in numpy: from there they go to any device.

    Raises:
      UsageError: no run, or one that is not finished or has no checkpoint.
      RunError: its checkpoint cannot be read.
    """
    from bbo.pipeline.run import Trained  # Here, so that whoever reads records loads no jax.
    from bbo.training.checkpoint import read_newest

    if not is_finished(workdir):
        raise UsageError(
            f"{workdir} holds no finished run (no summary.json); the command that began a run "
            "there goes on with it"
        )
    _, best, *_ = read_newest(workdir)
    return Trained(**best)
