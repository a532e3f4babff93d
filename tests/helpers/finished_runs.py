"""Small runs, as they are left behind when they are finished."""

import json

from bbo.pipeline.curve_file import write_curve
from bbo.settings.config import ExperimentConfig, override, to_json
from experiments.report.finished_runs import find_runs, grouped, points_of
from experiments.report.statistics import curve_statistics

BASE = override(ExperimentConfig(), sparsities=(0.0, 0.5, 0.6), recovery=("none",))


def make_run(folder, accuracies=(0.9, 0.8, 0.5), failed=None, **settings):
    """A finished run, as it is left behind; the point ``failed`` has an error instead."""
    config = override(BASE, **settings)
    rows = []
    for sparsity, accuracy in zip(config.pruning.sparsities, accuracies, strict=True):
        numbers = {
            "test_top1": accuracy,
            "validation_top1": accuracy,
            "test_loss": 1 - accuracy,
            "test_ece": 0.1,
        }
        numbers |= {"test_class_top1": f"{accuracy};1", "error": ""}
        for granularity in config.pruning.granularity:
            rows.append(
                {
                    "method": config.noise.noise,
                    "granularity": granularity,
                    "recovery": "none",
                    "sparsity": sparsity,
                    "achieved_sparsity": sparsity,
                    "macs_kept": 1 - sparsity,
                    "params_kept": 1 - sparsity,
                }
                | ({"error": "ValueError: no"} if sparsity == failed else numbers)
            )
    folder.mkdir(parents=True)
    record = {"config": to_json(config), "environments": [{"device": "cpu"}]}
    (folder / "config.json").write_text(json.dumps(record))
    write_curve(folder / "curve.csv", rows)
    (folder / "summary.json").write_text("{}")


def statistics(tmp_path, *settings):
    """The groups of runs with these settings, and the statistics of their curves."""
    for i, one in enumerate(settings):
        make_run(tmp_path / str(i), **one)
    found = grouped(find_runs([tmp_path]).runs)
    return found, curve_statistics(points_of(found))
