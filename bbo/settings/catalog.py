"""The names that exist: datasets and their facts, regularisers, criteria. Imports nothing heavy."""

from typing import NamedTuple


class DatasetInfo(NamedTuple):
    """Facts about a dataset that other settings depend on. Means and stds: the authors' program."""

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[float, ...]
    padding: int
    """Pixels of zero padding before the random crop of augmentation; 0: no crop."""
    flip: bool
    """Whether augmentation flips images horizontally."""


DATASETS = {
    "digits": DatasetInfo((8, 8, 1), 10, (0.3052,), (0.3757,), 0, False),
    "cifar10": DatasetInfo(
        (32, 32, 3), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 4, True
    ),
    "cifar100": DatasetInfo(
        (32, 32, 3), 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 4, True
    ),
    "svhn_cropped": DatasetInfo(
        (32, 32, 3), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 4, False
    ),
}
REGULARISERS = (
    "none",
    "batch_bridgeout",
    "bridgeout",
    "group_bridgeout",
    "dropconnect",
    "dropout",
    "sparseout",
    "targeted_dropout",
    "shakeout",
)
UNITS = ("weight", "kernel", "filter")
SCOPES = ("local", "layer", "global", "group")
MEANINGS = ("published", "clean")
CRITERIA = ("l2", "l1", "norm_scale", "taylor", "geometric_median", "random")
FILTER_CRITERIA = ("norm_scale", "geometric_median")
"""Criteria that exist for whole filters only."""
RECOVERIES = ("none", "batch_norm", "bias", "least_squares")
LAYERWISE = {"bias", "least_squares"}
"""Recoveries that restore what layers put out before they were pruned."""
SCHEDULES = ("cubic", "linear", "geometric")
"""Of the share removed after each of several pruning iterations."""
QUIRKY_NORM_SCALES = {"vgg": r"_norm/scale$", "thin_resnet": r"shortcut_norm/scale$"}
"""The BatchNorm scales, by network family, that the authors' program prunes by name accident."""
