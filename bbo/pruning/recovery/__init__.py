"""What mends a pruned network without training it.

Names are imported when they are asked for: those for Linen modules load flax, the others do not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbo.pruning.recovery.batch_norm import reestimate_batch_norm
    from bbo.pruning.recovery.biases import correct_biases
    from bbo.pruning.recovery.least_squares import refit
    from bbo.pruning.recovery.statistics import reestimate

_PLACES = {
    "correct_biases": "biases",
    "reestimate": "statistics",
    "reestimate_batch_norm": "batch_norm",
    "refit": "least_squares",
}
__all__ = ["correct_biases", "reestimate", "reestimate_batch_norm", "refit"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
