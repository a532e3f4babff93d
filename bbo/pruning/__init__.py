"""Pruning decisions in three steps: scores -> ranks -> masks.

Scores say how much each unit (weight, 2-D kernel or filter) matters. Ranks order the units that
compete with each other; they are computed once per network. A mask keeps the units whose rank
reaches a count, and the count is an argument: one compiled program serves every sparsity.

Scores, ranks and counts are dicts by parameter name; masks are a tree like the parameters.
Kernels are ``[kh, kw, in, out]``, filters on the last axis.
"""

from bbo.pruning.criteria import convolutions, eligible, norm_of, scores
from bbo.pruning.masking import apply_masks, masks
from bbo.pruning.pruner import Pruner, prepare, prune
from bbo.pruning.ranking import drop_counts, kept_fraction, ranks
from bbo.pruning.units import channel_scores, describe

__all__ = [
    "Pruner",
    "apply_masks",
    "channel_scores",
    "convolutions",
    "describe",
    "drop_counts",
    "eligible",
    "kept_fraction",
    "masks",
    "norm_of",
    "prepare",
    "prune",
    "ranks",
    "scores",
]
