"""What a run takes before its first step: to be imported, and to have its images."""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from bbo.settings.config import ExperimentConfig

IMPORTS = 3
"""Fresh processes, of which the quickest counts."""


def import_seconds() -> dict[str, float]:
    """Until a fresh process has loaded what a run needs."""

    def fresh() -> None:
        subprocess.run([sys.executable, "-c", "import bbo.pipeline.experiment"], check=True)

    return {"import bbo.pipeline.experiment": min(_seconds(fresh) for _ in range(IMPORTS))}


def load_seconds(config: ExperimentConfig) -> dict[str, float]:
    """Until the images of a dataset are in memory: decoded, and again from what that left.

    Raises:
      UsageError: they are not there, see ``datasets.load_dataset``.
    """
    from bbo.data.datasets import load_dataset

    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(config.data, cache_dir=folder)

        def load() -> None:
            load_dataset(settings, seed=0)

        name = f"load {config.data.dataset}"
        return {name: _seconds(load), f"{name}, again": _seconds(load)}


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
