"""What mends a pruned network without training it.

Names are imported when they are asked for: those for Linen modules load flax, the others do not.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbo.pruning.recovery.batch_norm import reestimate_batch_norm
    from bbo.pruning.recovery.biases import correct_biases
    from bbo.pruning.recovery.functions import correct_function, fitted_kernels, refit_function
    from bbo.pruning.recovery.least_squares import refit
    from bbo.pruning.recovery.statistics import reestimate

_PLACES = {
    "correct_biases": "biases",
    "correct_function": "functions",
    "fitted_kernels": "functions",
    "reestimate": "statistics",
    "reestimate_batch_norm": "batch_norm",
    "refit": "least_squares",
    "refit_function": "functions",
}
__all__ = [
    "correct_biases",
    "correct_function",
    "fitted_kernels",
    "reestimate",
    "reestimate_batch_norm",
    "refit",
    "refit_function",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
