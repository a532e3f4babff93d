"""A run from its settings to its folder: trained, pruned, evaluated; and read again.

Names are imported when they are asked for: whoever reads a finished run loads no jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbo.pipeline.experiment import Result, run_experiment, run_members
    from bbo.pipeline.finished import read_network, read_run

_PLACES = {
    "Result": "experiment",
    "read_network": "finished",
    "read_run": "finished",
    "run_experiment": "experiment",
    "run_members": "experiment",
}
__all__ = ["Result", "read_network", "read_run", "run_experiment", "run_members"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
