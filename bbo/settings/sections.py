"""The sections of a configuration on images, network and training; frozen, and checked.

A field's metadata holds its help text; the programs make their flags from it. Field names are
unique over all sections, so that a flag needs no prefix.
"""

import dataclasses

from bbo.settings.catalog import DATASETS, DatasetInfo, parse_model
from bbo.settings.fields import check_choices, check_range, setting

MOST_EPOCHS = 100_000
"""What is drawn for all steps of a training has to fit into memory."""


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
    downscale: int = setting(
        1, "average images down by this factor in height and width (2: 16x16 of 32x32), >= 1"
    )

    def __post_init__(self):
        check_choices(self)
        size = DATASETS[self.dataset].image_shape[0]
        check_range(
            self,
            validation_fraction=(lambda v: 0 <= v < 1, "in [0, 1)"),
            downscale=(
                lambda v: v >= 1 and size % v == 0,
                f"a divisor of {size}, the height of the images of {self.dataset}",
            ),
        )

    @property
    def info(self) -> DatasetInfo:
        """The facts of the images as they go into a network."""
        info, factor = DATASETS[self.dataset], self.downscale
        height, width, channels = info.image_shape
        return info._replace(
            image_shape=(height // factor, width // factor, channels),
            padding=info.padding // factor,
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network."""

    model: str = setting(
        "small_cnn",
        "small_cnn (8x8 digits), small_vgg (16x16), vgg11 13 16 19, thin_resnet18 20 34, "
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
        check_choices(self)
        parse_model(self.model)
        momentum = (lambda v: 0 <= v < 1, "in [0, 1)")
        check_range(
            self,
            width=(lambda v: 0 < v <= 16, "in (0, 16]"),
            norm_momentum=momentum,
            final_norm_momentum=momentum,
        )


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
    average_decay: float = setting(
        0.0,
        "share of the moving average of the weights that is kept at each step; the average is "
        "what is evaluated and pruned; 0: the weights themselves, in [0, 1)",
    )
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
            average_decay=share,
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
    norm_scope: str = setting(
        "global",
        "what BatchNorm averages over in training: the whole batch, or each device its own rows",
        one_of=("global", "device"),
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
            epochs=(lambda v: 1 <= v <= MOST_EPOCHS, f">= 1, and {MOST_EPOCHS} at most"),
            batch_size=(lambda v: v >= 2, ">= 2"),
            steps_per_call=positive,
            seed=(lambda v: 0 <= v < 2**32, "in [0, 2**32)"),
            checkpoint_every=positive,
        )
