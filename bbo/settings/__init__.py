"""Settings: what exists, what a run may ask for, and the folder that it claims.

Everything here is refused or accepted before jax is loaded: it imports the standard library alone.
"""

from bbo.settings.config import (
    DataConfig,
    ExperimentConfig,
    IterationConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    PruningConfig,
    TrainConfig,
    from_json,
    override,
    to_json,
)

__all__ = [
    "DataConfig",
    "ExperimentConfig",
    "IterationConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "PruningConfig",
    "TrainConfig",
    "from_json",
    "override",
    "to_json",
]
