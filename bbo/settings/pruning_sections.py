"""The sections of a configuration that say what is removed, and how what is left is mended."""

import dataclasses
import itertools

from bbo.settings.catalog import (
    CRITERIA,
    EVALUATIONS,
    MEANINGS,
    RECOVERIES,
    SCHEDULES,
    SCOPES,
    UNITS,
)
from bbo.settings.fields import check_choices, check_pattern, check_range, setting
from bbo.settings.sections import MOST_EPOCHS

CLOSEST = 1e-9
"""Shares that differ by no more are one."""


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """What is removed after training, and how the network is mended."""

    sparsities: tuple[float, ...] = setting(
        tuple(i / 10 for i in range(10)), "shares to remove, increasing, each in [0, 1)"
    )
    granularity: tuple[str, ...] = setting(
        ("filter", "weight"), "what is removed; a curve for each", some_of=UNITS
    )
    criterion: str = setting(
        "l2",
        "score of importance; the lowest are removed, and dropped by nested_dropping (index: the "
        "last filters, for ordered widths as in slimmable networks)",
        one_of=CRITERIA,
    )
    scope: str = setting(
        "local",
        "what competes: local (filters in their layer, kernels and weights in their filter), "
        "layer, global, or group (as local; channels that layers share are pruned in all of them)",
        one_of=SCOPES,
    )
    meaning: str = setting(
        "clean",
        "what removing a filter means: published (only its kernel is zero; the channel still "
        "emits a constant) or clean (bias, norm scale and shift too: the channel is dead)",
        one_of=MEANINGS,
    )
    prune_on: str = setting(
        "", "regular expression on kernel names; empty: every convolution, not the dense layer"
    )
    prune_norm_scales: bool = setting(
        False, "also rank and prune the BatchNorm scales that the authors' name test catches"
    )
    recovery: tuple[str, ...] = setting(
        ("none", "batch_norm"),
        "what mends the pruned network without training; a curve for each (batch_norm: BatchNorm "
        "statistics estimated anew; bias: that, and the mean that outputs without a norm have lost "
        "added to their bias; least_squares: that, after the weights that are left were refitted "
        "to what each layer put out before; all on training images, the last two on 1024 at most)",
        some_of=RECOVERIES,
    )
    recovery_images: int = setting(5120, "training images that a recovery may look at, >= 1")
    evaluate: str = setting(
        "auto",
        "pruned networks are measured with zeros in place (masked), without their dead channels "
        "(compact; the same up to rounding), or so where it saves more than compiling costs (auto)",
        one_of=EVALUATIONS,
    )

    def __post_init__(self):
        check_choices(self)
        check_range(
            self,
            sparsities=(
                lambda v: (
                    len(v) > 0
                    and all(0 <= a < 1 for a in v)
                    and all(b - a > CLOSEST for a, b in itertools.pairwise(v))
                ),
                "increasing numbers in [0, 1)",
            ),
            recovery_images=(lambda v: v >= 1, ">= 1"),
        )
        check_pattern("prune_on", self.prune_on)


@dataclasses.dataclass(frozen=True)
class IterationConfig:
    """Pruning and training in turn, instead of pruning once."""

    prune_iterations: int = setting(
        1,
        "prune and train on so many times, what is removed held at zero; the curve then has a "
        "point for each (1: pruned once at each of sparsities, and not trained), >= 1",
    )
    prune_to: float = setting(
        0.9, "share removed after the last of several prune_iterations, in (0, 1)"
    )
    prune_schedule: str = setting(
        "cubic",
        "share removed after each of them: cubic (much at first; Zhu and Gupta 2017), linear, or "
        "geometric (the same share of what is left each time, as for lottery tickets)",
        one_of=SCHEDULES,
    )
    retrain_epochs: int = setting(10, "passes over the training images after each pruning, >= 1")
    retrain_rate: float = setting(
        0.01, "learning_rate of these, by the schedule of the run; not used by rewind, > 0"
    )
    rewind: bool = setting(
        False,
        "train what is left from its initial weights, with the learning_rate of the run (lottery "
        "tickets; Frankle and Carbin 2019), instead of further",
    )

    def __post_init__(self):
        check_choices(self)
        check_range(
            self,
            prune_iterations=(lambda v: 1 <= v <= 1000, ">= 1, and 1000 at most"),
            prune_to=(lambda v: 0 < v < 1, "in (0, 1)"),
            retrain_epochs=(lambda v: 1 <= v <= MOST_EPOCHS, f">= 1, and {MOST_EPOCHS} at most"),
            retrain_rate=(lambda v: v > 0, "> 0"),
        )
