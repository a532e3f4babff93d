"""One network trained and evaluated: steps, optimisers, devices, checkpoints."""

from bbo.training.evaluation import evaluate
from bbo.training.optimizer import create_optimizer
from bbo.training.step import TrainState, create_state, train_step

__all__ = ["TrainState", "create_optimizer", "create_state", "evaluate", "train_step"]
