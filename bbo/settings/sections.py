"""The sections of a configuration: frozen, each value checked when it is made.

A field's metadata holds its help text; the programs make their flags from it. Field names are
unique over all sections, so that a flag needs no prefix.
"""

import dataclasses

from bbo.settings.catalog import (
    CRITERIA,
    DATASETS,
    MEANINGS,
    RECOVERIES,
    REGULARISERS,
    SCHEDULES,
    SCOPES,
    UNITS,
    parse_model,
)
from bbo.settings.fields import check_choices, check_pattern, check_range, setting


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, from where, and how they are split."""

    dataset: str = setting("digits", "images to learn", one_of=DATASETS)
    data_dir: str = setting(
        "~/tensorflow_datasets", "folder of prepared TensorFlow datasets (not used by digits)"
    )
    cache_dir: str = setting("~/.cache/bbo", "folder for decoded images (made anew when absent)")
    validation_fraction: float = setting(
        0.1, "share of the training images held out to make decisions on, in [0, 1)"
    )
    augment: bool = setting(
        True, "random crop and flip where the dataset has them (digits has none)"
    )

    def __post_init__(self):
        check_choices(self)
        check_range(self, validation_fraction=(lambda v: 0 <= v < 1, "in [0, 1)"))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network."""

    model: str = setting(
        "small_cnn",
        "small_cnn (8x8 digits), vgg11 13 16 19, thin_resnet18 34 (of the paper), "
        "resnet18 34 50 (full width), or wrnDEPTH_WIDTH such as wrn28_10",
    )
    width: float = setting(1.0, "factor on the number of channels of every layer, > 0")
    conv_bias: bool = setting(False, "give the convolutions a bias, as the paper's networks have")
    norm_momentum: float = setting(
        0.9, "share of the running BatchNorm statistics kept at each step, in [0, 1)"
    )
    final_norm_momentum: float = setting(
        0.9, "norm_momentum of the last BatchNorm of a wide resnet (the paper's: 0.1)"
    )

    def __post_init__(self):
        parse_model(self.model)
        momentum = (lambda v: 0 <= v < 1, "in [0, 1)")
        check_range(
            self,
            width=(lambda v: 0 < v <= 16, "in (0, 16]"),
            norm_momentum=momentum,
            final_norm_momentum=momentum,
        )


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The regulariser: what noise is put on the weights or activations while training."""

    noise: str = setting("batch_bridgeout", "regulariser", one_of=REGULARISERS)
    rate: float = setting(0.3, "probability of dropping, in (0, 1)")
    q: float = setting(1.5, "norm of the penalty that the bridgeouts and sparseout apply, > 0")
    target_fraction: float = setting(
        0.75,
        "batch_bridgeout, targeted_dropout: only this weakest share of the units is perturbed, "
        "in (0, 1]",
    )
    target_unit: str = setting(
        "kernel",
        "what is ranked for targeting: single weights or 2-D kernels within their filter, "
        "or whole filters within their layer",
        one_of=UNITS,
    )
    activation_target_fraction: float = setting(
        1.0, "dropout, sparseout: only this weakest share of channel maps is perturbed, in (0, 1]"
    )
    shakeout_c: float = setting(0.1, "strength of shakeout's constant part, >= 0")
    noise_on: str = setting(
        "", "regular expression on parameter names; empty: every spatial (not 1x1) convolution"
    )

    def __post_init__(self):
        check_choices(self)
        check_range(
            self,
            rate=(lambda v: 0 < v < 1, "in (0, 1), for instance 0.3; no noise is --noise=none"),
            q=(lambda v: 0 < v <= 8, "in (0, 8]"),
            target_fraction=(lambda v: 0 < v <= 1, "in (0, 1]"),
            activation_target_fraction=(lambda v: 0 < v <= 1, "in (0, 1]"),
            shakeout_c=(lambda v: v >= 0, ">= 0"),
        )
        check_pattern("noise_on", self.noise_on)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with Nesterov momentum and coupled weight decay."""

    learning_rate: float = setting(0.1, "peak learning rate, > 0")
    momentum: float = setting(0.9, "Nesterov momentum, in [0, 1)")
    weight_decay: float = setting(5e-4, "added to the gradient of every parameter, >= 0")
    schedule: str = setting(
        "step",
        "step: times decay_factor after each milestone, in whole epochs; cosine: to 0 after a "
        "linear warm-up; constant",
        one_of=("step", "cosine", "constant"),
    )
    milestones: tuple[float, ...] = setting(
        (60 / 230, 120 / 230, 160 / 230, 200 / 230),
        "increasing shares of the epochs after which the step schedule decays, in (0, 1)",
    )
    decay_factor: float = setting(0.2, "factor of the step schedule, in (0, 1]")
    warmup_fraction: float = setting(0.1, "share of the steps that warm up (cosine), in [0, 1)")
    label_smoothing: float = setting(0.0, "probability spread over all classes, in [0, 1)")
    reset_momentum: bool = setting(
        False, "set the momentum to zero at each epoch, as the authors' program does"
    )

    def __post_init__(self):
        check_choices(self)
        share = (lambda v: 0 <= v < 1, "in [0, 1)")
        check_range(
            self,
            learning_rate=(lambda v: v > 0, "> 0"),
            momentum=share,
            weight_decay=(lambda v: v >= 0, ">= 0"),
            milestones=(
                lambda v: all(0 < a < 1 for a in v) and list(v) == sorted(set(v)),
                "increasing numbers in (0, 1)",
            ),
            decay_factor=(lambda v: 0 < v <= 1, "in (0, 1]"),
            warmup_fraction=share,
            label_smoothing=share,
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how, and what is kept."""

    epochs: int = setting(230, "passes over the training images, >= 1")
    batch_size: int = setting(128, "images in a step, over all devices, >= 2")
    seed: int = setting(
        0, "of initial weights, order of images, augmentation, noise and validation split, >= 0"
    )
    dtype: str = setting(
        "float32", "of the computation; parameters are float32", one_of=("float32", "bfloat16")
    )
    parallel: str = setting(
        "jit", "how devices work together: jit over a mesh, or pmap", one_of=("jit", "pmap")
    )
    generator: str = setting(
        "threefry",
        "of random numbers: threefry (the same on all devices) or rbg (their own; for TPUs)",
        one_of=("threefry", "rbg"),
    )
    steps_per_call: int = setting(
        1,
        "most training steps in one computation: spares the host of a GPU; slow on CPU; >= 1",
    )
    select: str = setting(
        "best_validation",
        "the network that is pruned: of the last epoch, or of the epoch with the best accuracy",
        one_of=("last", "best_validation", "best_test"),
    )
    checkpoint_every: int = setting(10, "epochs between checkpoints, >= 1")

    def __post_init__(self):
        check_choices(self)
        positive = (lambda v: v >= 1, ">= 1")
        check_range(
            self,
            epochs=positive,
            batch_size=(lambda v: v >= 2, ">= 2"),
            steps_per_call=positive,
            seed=(lambda v: 0 <= v < 2**32, "in [0, 2**32)"),
            checkpoint_every=positive,
        )


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """What is removed after training, and how the network is mended."""

    sparsities: tuple[float, ...] = setting(
        tuple(i / 10 for i in range(10)), "shares to remove, increasing, each in [0, 1)"
    )
    granularity: tuple[str, ...] = setting(
        ("filter", "weight"), "what is removed; a curve for each", some_of=UNITS
    )
    criterion: str = setting("l2", "score of importance; the lowest are removed", one_of=CRITERIA)
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

    def __post_init__(self):
        check_choices(self)
        check_range(
            self,
            sparsities=(
                lambda v: len(v) > 0 and all(0 <= a < 1 for a in v) and list(v) == sorted(set(v)),
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
            prune_iterations=(lambda v: v >= 1, ">= 1"),
            prune_to=(lambda v: 0 < v < 1, "in (0, 1)"),
            retrain_epochs=(lambda v: v >= 1, ">= 1"),
            retrain_rate=(lambda v: v > 0, "> 0"),
        )
