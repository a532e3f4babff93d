"""Noise on weights and activations, as pure functions of a parameter tree.

Draw ``noisy = regulariser.weights(rng, params)`` once per step, then apply the model to ``noisy``.
"""

from bbo.noise.bridgeout import (
    batch_bridgeout,
    bridgeout,
    group_bridgeout,
    scale_free_bridgeout,
    sparseout,
)
from bbo.noise.configured import create_regulariser
from bbo.noise.dropout import (
    dropconnect,
    dropout,
    nested_dropping,
    shakeout,
    targeted_dropout,
)
from bbo.noise.penalty import lq_penalty
from bbo.noise.regulariser import Regulariser, masked, none, paused
from bbo.noise.selection import spatial_kernels

__all__ = [
    "Regulariser",
    "batch_bridgeout",
    "bridgeout",
    "create_regulariser",
    "dropconnect",
    "dropout",
    "group_bridgeout",
    "lq_penalty",
    "masked",
    "nested_dropping",
    "none",
    "paused",
    "scale_free_bridgeout",
    "shakeout",
    "sparseout",
    "spatial_kernels",
    "targeted_dropout",
]
