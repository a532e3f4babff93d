"""What mends a pruned network without training it."""

from bbo.pruning.recovery.batch_norm import reestimate_batch_norm
from bbo.pruning.recovery.biases import correct_biases
from bbo.pruning.recovery.least_squares import refit

__all__ = ["correct_biases", "reestimate_batch_norm", "refit"]
