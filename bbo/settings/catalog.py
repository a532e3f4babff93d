"""The names that exist, a table for each kind, and what settings depend on. Imports nothing heavy.

A table here and one of functions elsewhere are all that a new name has to be entered in.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from bbo.types import UsageError


class DatasetInfo(NamedTuple):
    """Facts about a dataset that other settings depend on.

    Means and stds: the authors' program; of mnist and fashion_mnist, their training pixels'.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    padding: int
    """Pixels of zero padding before the random crop of augmentation; 0: no crop."""
    flip: bool
    """Whether augmentation flips images horizontally."""
    prepared: bool = True
    """Whether it lies in ``data_dir``, prepared for TFDS; others have a function in
    ``data.datasets.LOADERS``."""


DATASETS = {
    "digits": DatasetInfo((8, 8, 1), 10, (0.3052,), (0.3757,), 0, False, prepared=False),
    "cifar10": DatasetInfo(
        (32, 32, 3), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 4, True
    ),
    "cifar100": DatasetInfo(
        (32, 32, 3), 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 4, True
    ),
    "svhn_cropped": DatasetInfo(
        (32, 32, 3), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 4, False
    ),
    "mnist": DatasetInfo((28, 28, 1), 10, (0.1307,), (0.3081,), 2, False),
    "fashion_mnist": DatasetInfo((28, 28, 1), 10, (0.2860,), (0.3530,), 2, True),
}
_WEIGHTS = ("noise_on",)
_TARGETED = ("target_fraction", "target_unit", *_WEIGHTS)
_MAPS = ("activation_target_fraction", "draw_bits")
_WHEN = ("noise_from", "ramp_up", "ramp_down", "clean_share", "clean_in", "distill", "ascent")
REGULARISERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "batch_bridgeout": ("rate", "q", *_TARGETED),
    "scale_free_bridgeout": ("rate", "q", *_TARGETED, "nested", "draw_unit"),
    "bridgeout": ("rate", "q", *_WEIGHTS),
    "group_bridgeout": ("rate", "q", *_WEIGHTS),
    "dropconnect": ("rate", *_WEIGHTS),
    "dropout": ("rate", *_MAPS),
    "sparseout": ("rate", "q", *_MAPS),
    "targeted_dropout": ("rate", *_TARGETED),
    "nested_dropping": ("target_fraction", "removed_shares"),
    "shakeout": ("rate", "shakeout_c", *_WEIGHTS),
    "lq_penalty": ("penalty", "q", "draw_unit", *_WEIGHTS),
}
"""The settings of noise that have an effect, by regulariser. Made by ``noise.configured``."""
DRAW_BITS = (32, 8)
CLEAN_IN = ("steps", "each_step")
UNITS = ("weight", "kernel", "filter")
SCOPES = ("local", "layer", "global", "group")
MEANINGS = ("published", "clean")
EVALUATIONS = ("auto", "masked", "compact")
CRITERIA: dict[str, tuple[str, ...]] = {
    "l2": UNITS,
    "l1": UNITS,
    "norm_scale": ("filter",),
    "taylor": UNITS,
    "geometric_median": ("filter",),
    "random": UNITS,
    "index": ("filter",),
}
"""The units that each criterion scores. Computed by ``pruning.criteria``."""
RECOVERIES = {"none": False, "batch_norm": False, "bias": True, "least_squares": True}
"""Whether each restores what layers put out before they were pruned.

Done by ``pruning.recovery.by_name``.
"""
SCHEDULES = ("cubic", "linear", "geometric")
"""Of the share removed after each of several pruning iterations."""


class Family(NamedTuple):
    """Networks whose names differ in their numbers. Built by ``models.create``."""

    accepts: Callable[[tuple[int, ...]], bool]
    """Whether there is a network of these numbers."""
    text: str
    """Which are, for people."""
    least_pixels: int = 1
    """Height and width of the smallest image that it can take."""
    quirky_scales: str = ""
    """The BatchNorm scales that the authors' program prunes by name accident; empty: none."""


MODELS = {
    "small_cnn": Family(lambda numbers: numbers == (), "small_cnn"),
    "small_vgg": Family(lambda numbers: numbers == (), "small_vgg", least_pixels=8),
    "vgg": Family(
        lambda numbers: numbers in [(11,), (13,), (16,), (19,)],
        "vgg11, vgg13, vgg16, vgg19",
        least_pixels=32,
        quirky_scales=r"_norm/scale$",
    ),
    "thin_resnet": Family(
        lambda numbers: numbers in [(18,), (20,), (34,)],
        "thin_resnet18, thin_resnet20, thin_resnet34",
        quirky_scales=r"shortcut_norm/scale$",
    ),
    "resnet": Family(
        lambda numbers: numbers in [(18,), (34,), (50,)], "resnet18, resnet34, resnet50"
    ),
    "wrn": Family(
        lambda n: len(n) == 2 and n[0] >= 10 and n[0] % 6 == 4 and 1 <= n[1] <= 99,
        "wrnDEPTH_WIDTH such as wrn28_10 (DEPTH 10, 16, 22, 28, ...: 6n + 4; WIDTH 1 to 99)",
    ),
}


def noise_settings(noise: str) -> tuple[str, ...]:
    """The settings of noise that have an effect with a regulariser: its own, and those of when.

    >>> noise_settings("dropconnect")[:3], noise_settings("none")
    (('rate', 'noise_on', 'noise_from'), ())
    """
    return (*REGULARISERS[noise], *_WHEN) if REGULARISERS[noise] else ()


def parse_model(model: str) -> tuple[str, tuple[int, ...]]:
    """The family of a network and the numbers in its name.

    Raises:
      UsageError: there is no such network.

    >>> parse_model("thin_resnet34"), parse_model("wrn28_10"), parse_model("small_cnn")
    (('thin_resnet', (34,)), ('wrn', (28, 10)), ('small_cnn', ()))
    """
    name = model.rstrip("0123456789_")
    rest = model.removeprefix(name)
    if name in MODELS and re.fullmatch(r"(\d{1,3}(_\d{1,3})*)?", rest):
        numbers = tuple(int(digits) for digits in re.findall(r"\d+", rest))
        if MODELS[name].accepts(numbers):
            return name, numbers
    texts = ", ".join(family.text for family in MODELS.values())
    raise UsageError(f"model is {model!r}; it must be one of {texts}")
