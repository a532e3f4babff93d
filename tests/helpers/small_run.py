"""A run that takes seconds, and what it has recorded."""

from bbo import files
from bbo.settings.config import ExperimentConfig, override

SETTINGS = {
    "epochs": 3,
    "batch_size": 256,
    "width": 0.25,
    "checkpoint_every": 1,
    "sparsities": (0.0, 0.5),
    "granularity": ("filter",),
}
SMALL = override(ExperimentConfig(), **SETTINGS)
"""An epoch is five steps."""


def records(folder):
    """The metrics of each epoch, but for the time that it took."""
    found = files.read_lines(folder / "metrics.jsonl")
    assert all(record["seconds"] > 0 for record in found)
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]
