"""Datasets as whole uint8 arrays, their splits, and the augmentation that runs inside jit."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bbo.settings.catalog import DATASETS, DatasetInfo
from bbo.settings.sections import DataConfig
from bbo.types import UsageError

DIGITS_TEST_IMAGES = 360
DIGITS_TEST_SEED = 1797
"""Any number would do; it is fixed so that the test set of digits is the same for everyone."""
DIGITS_FILE = "datasets/data/digits.csv.gz"
"""Of scikit-learn, below its package."""


class Split(NamedTuple):
    """Images and their classes, on the host."""

    image: np.ndarray
    """uint8 [n, h, w, c]"""
    label: np.ndarray
    """int32 [n]"""


class Dataset(NamedTuple):
    """Images to train on, of which some are held out, and images to test on."""

    training: Split
    """Before any is held out."""
    held_out: np.ndarray
    """bool [n]: which of them are for validation."""
    test: Split
    info: DatasetInfo

    @property
    def train(self) -> Split:
        """The training images that are not held out."""
        return _rows(self.training, ~self.held_out)

    @property
    def validation(self) -> Split:
        """The training images that are held out; there may be none."""
        return _rows(self.training, self.held_out)


def load_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """Reads a dataset and holds a validation split out of its training images.

    Args:
      config: the dataset, where it lies, and the share held out.
      seed: decides which images are held out; train and test images never depend on it.

    Raises:
      UsageError: the dataset is not prepared, damaged or not what its name says, or the share
        held out leaves validation or a class of the training images empty.
    """
    info = DATASETS[config.dataset]
    train, test = (_load_prepared if info.prepared else LOADERS[config.dataset])(config)
    for split in (train, test):
        shape, classes = split.image.shape[1:], np.unique(split.label)
        if shape != info.image_shape or not np.isin(classes, range(info.num_classes)).all():
            raise UsageError(
                f"data_dir {config.data_dir} holds another dataset under the name "
                f"{config.dataset}: images {shape}, labels up to {classes[-1]}"
            )
    held_out = _choose_validation(train.label, config.validation_fraction, seed)
    train, test = (
        split._replace(image=averaged(split.image, config.downscale)) for split in (train, test)
    )
    return Dataset(train, held_out, test, config.info)


def averaged(images: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of ``factor`` x ``factor`` pixels, halves rounded up.

    Args:
      images: uint8 [n, h, w, c].
      factor: divides h and w; 1 gives the very images.

    >>> averaged(np.array([[0, 1], [2, 3]], np.uint8).reshape(1, 2, 2, 1), 2).ravel().tolist()
    [2]
    """
    if factor == 1:
        return images
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    area = factor**2
    return ((squares.sum((2, 4), dtype=np.uint32) + area // 2) // area).astype(np.uint8)


def _load_prepared(config: DataConfig) -> tuple[Split, Split]:
    from bbo.data.tfds import load_cached  # what it needs is not needed for digits

    splits = load_cached(config.dataset, config.data_dir, config.cache_dir)
    return Split(*splits["train"]), Split(*splits["test"])


def _load_digits(config: DataConfig) -> tuple[Split, Split]:
    """The 1797 digits of scikit-learn, 8x8 grey: 1437 to train and 360 to test, ours and fixed."""
    del config
    rows = _digits_of_sklearn()
    pixels = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    digits = Split(pixels, rows[:, -1].astype(np.int32))
    is_test = _stratified(digits.label, DIGITS_TEST_IMAGES, np.random.default_rng(DIGITS_TEST_SEED))
    return _rows(digits, ~is_test), _rows(digits, is_test)


def _digits_of_sklearn() -> np.ndarray:
    """float64 [1797, 65]: the pixels of an image, 0 to 16, and its label.

    From the file itself where it is: importing scikit-learn takes much longer than to read it.
    """
    spec = importlib.util.find_spec("sklearn")
    path = pathlib.Path(spec.origin if spec and spec.origin else "").parent / DIGITS_FILE
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target])


LOADERS: dict[str, Callable[[DataConfig], tuple[Split, Split]]] = {"digits": _load_digits}
"""What gives the training and test images of those that are not prepared for TFDS."""


def _rows(split: Split, chosen: np.ndarray) -> Split:
    # Boolean indexing copies: 150 MB of CIFAR are not copied for nothing.
    return split if chosen.all() else Split(split.image[chosen], split.label[chosen])


def _choose_validation(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    count = round(fraction * len(labels))
    if fraction > 0 and count == 0:
        raise UsageError(
            f"validation_fraction is {fraction}, less than one of {len(labels)} images; "
            "make it larger, or 0 to hold none out"
        )
    held_out = _stratified(labels, count, np.random.default_rng([seed, 1]))
    lost = np.setdiff1d(labels, labels[~held_out])
    if len(lost):
        raise UsageError(
            f"validation_fraction is {fraction}, which leaves no training image of class "
            f"{', '.join(map(str, lost))}; make it smaller"
        )
    return held_out


def _stratified(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """A boolean [n] with ``count`` True, each class in proportion to within one image.

    The images of a class are put in random order at even distances in [0, 1]; the ``count``
    lowest are chosen. ``random`` alone is drawn: numpy keeps that stream over its versions.
    """
    order = np.lexsort((generator.random(len(labels)), labels))
    sizes = np.bincount(labels)[labels[order]]
    starts = np.searchsorted(labels[order], labels[order])
    place = (np.arange(len(labels)) - starts + 0.5) / sizes
    chosen = np.zeros(len(labels), bool)
    chosen[order[np.argsort(place, kind="stable")[:count]]] = True
    return chosen
