"""Splits and augmentation: exact against numpy, fixed by their keys."""

import hashlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.data import augmentation
from bbo.data import datasets as data
from bbo.settings.catalog import DATASETS
from bbo.settings.sections import DataConfig
from bbo.types import UsageError

IMAGES = np.random.default_rng(0).integers(1, 256, (400, 6, 5, 3), dtype=np.uint8)
INDEX = jnp.arange(len(IMAGES), dtype=jnp.int32)
augment = jax.jit(augmentation.augment, static_argnames=("padding", "flip"))


def digits(seed=0, **settings):
    return data.load_dataset(DataConfig(**settings), seed=seed)


def fingerprint(split):
    return hashlib.sha256(split.image.tobytes() + split.label.tobytes()).hexdigest()[:16]


def test_digits_are_split_1437_360_whatever_the_seed():
    first, second = digits(0, validation_fraction=0.0), digits(1, validation_fraction=0.0)
    assert first.train.image.shape == (1437, 8, 8, 1) and first.train.image.dtype == np.uint8
    assert first.test.image.shape == (360, 8, 8, 1) and first.test.label.dtype == np.int32
    assert first.validation.image.shape == (0, 8, 8, 1) and len(first.validation.label) == 0
    assert np.bincount(first.test.label).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert first.train.image.min() == 0 and first.train.image.max() == 255
    for split in ("train", "test"):
        assert fingerprint(getattr(first, split)) == fingerprint(getattr(second, split))
    # Golden: the same on every platform and with every numpy.
    assert int(first.train.image.sum()) == 7158624 and int(first.test.image.sum()) == 1795177


def test_digits_are_the_same_by_way_of_scikit_learn(monkeypatch):
    read = data._digits_of_sklearn()
    monkeypatch.setattr(data, "DIGITS_FILE", "moved")
    np.testing.assert_array_equal(read, data._digits_of_sklearn())


def test_digits_facts_are_those_of_the_training_images():
    pixels = digits(validation_fraction=0.0).train.image / 255
    assert DATASETS["digits"].mean == (round(pixels.mean(), 4),)
    assert DATASETS["digits"].std == (round(pixels.std(), 4),)


def test_cifar_std_is_the_authors_number():
    # By intent not the std of the pixels, (0.247, 0.243, 0.262): results stay comparable.
    assert DATASETS["cifar10"].std == (0.2023, 0.1994, 0.2010)


def test_validation_is_a_stratified_part_of_the_training_set():
    whole, parts = digits(validation_fraction=0.0), digits(validation_fraction=0.1)
    assert len(parts.validation.label) == 144 and len(parts.train.label) == 1293
    assert fingerprint(parts.test) == fingerprint(whole.test)
    rows = lambda *splits: sorted(im.tobytes() for s in splits for im in s.image)  # noqa: E731
    assert rows(parts.train, parts.validation) == rows(whole.train)
    expected = np.bincount(whole.train.label) * 144 / 1437
    assert np.abs(np.bincount(parts.validation.label) - expected).max() < 1
    assert int(parts.validation.image.sum()) == 703234  # golden


def test_validation_depends_on_the_seed_alone():
    same = [fingerprint(digits(3).validation) for _ in range(2)]
    assert same[0] == same[1] != fingerprint(digits(4).validation)


@pytest.mark.parametrize("fraction, reason", [(1e-4, "less than one"), (0.9999, "no training")])
def test_useless_validation_fractions_are_refused(fraction, reason):
    with pytest.raises(UsageError, match=f"validation_fraction is {fraction}.*{reason}"):
        digits(validation_fraction=fraction)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_images_are_averaged_down(factor):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    small = data.averaged(images, factor)
    exact = images.reshape(5, 8 // factor, factor, 8 // factor, factor, 3).mean((2, 4))
    assert small.dtype == np.uint8 and small.shape == exact.shape
    np.testing.assert_array_equal(small, np.floor(exact + 0.5))


def test_a_small_dataset_is_the_same_split():
    whole, small = digits(downscale=1), digits(downscale=2)
    np.testing.assert_array_equal(small.validation.label, whole.validation.label)
    np.testing.assert_array_equal(small.train.image, data.averaged(whole.train.image, 2))
    assert small.info.image_shape == (4, 4, 1) == small.test.image.shape[1:]
    assert DataConfig(dataset="cifar10", downscale=2).info.padding == 2
    with pytest.raises(UsageError, match="downscale is 3; it must be a divisor of 8"):
        digits(downscale=3)


def test_another_dataset_under_the_name_is_refused(monkeypatch):
    split = data.Split(np.zeros((4, 28, 28, 1), np.uint8), np.arange(4, dtype=np.int32))
    monkeypatch.setattr(data, "_load_prepared", lambda config: (split, split))
    with pytest.raises(UsageError, match=r"cifar10: images \(28, 28, 1\)"):
        digits(dataset="cifar10")


def test_no_augmentation_is_the_identity():
    result = augment(jax.random.key(0), IMAGES, index=INDEX, padding=0, flip=False)
    np.testing.assert_array_equal(result, IMAGES)


def crops(image, padding, flips):
    """Every crop of a padded image by (top, left, flipped), in numpy."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = image.shape
    for top, left in np.ndindex(2 * padding + 1, 2 * padding + 1):
        crop = padded[top : top + height, left : left + width]
        for flip in flips:
            yield (top, left, flip), crop[:, ::-1] if flip else crop


@pytest.mark.parametrize("padding, flips", [(2, (False, True)), (2, (False,)), (0, (False, True))])
def test_each_image_is_one_of_its_crops_equally_often(padding, flips):
    with jax.numpy_dtype_promotion("strict"):
        result = augment(
            jax.random.key(1), IMAGES, index=INDEX, padding=padding, flip=len(flips) > 1
        )
    assert result.dtype == jnp.uint8 and result.shape == IMAGES.shape
    drawn = []
    for image, augmented in zip(IMAGES, np.asarray(result), strict=True):
        (found,) = [
            k for k, crop in crops(image, padding, flips) if np.array_equal(crop, augmented)
        ]
        drawn.append(found)
    n, side = len(drawn), 2 * padding + 1
    for axis, values in enumerate((range(side), range(side), flips)):
        p = 1 / len(values)
        for value in values:
            count = sum(draw[axis] == value for draw in drawn)
            assert abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_a_crop_takes_no_slice_at_a_place_of_each_image():
    """Which are a loop over the images on a TPU."""
    program = str(
        jax.make_jaxpr(lambda x: augment(jax.random.key(0), x, index=INDEX, padding=2, flip=True))(
            IMAGES
        )
    )
    assert "select_n" in program and "pad" in program
    assert not {"gather", "dynamic_slice"} & set(re.findall(r"\w+", program))


def test_an_image_is_augmented_by_its_global_position():
    key = jax.random.key(2)
    whole = augment(key, IMAGES, index=INDEX, padding=2, flip=True)
    part = augment(key, IMAGES[100:200], index=INDEX[100:200], padding=2, flip=True)
    np.testing.assert_array_equal(part, whole[100:200])
    other = augment(jax.random.key(3), IMAGES, index=INDEX, padding=2, flip=True)
    assert (np.asarray(other) != np.asarray(whole)).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize(dtype):
    mean, std = DATASETS["cifar10"].mean, DATASETS["cifar10"].std
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        result = jax.jit(lambda images: augmentation.normalize(images, mean, std, dtype))(IMAGES)
    assert result.dtype == dtype
    exact = (IMAGES / 255 - mean) / std
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(
        result.astype(jnp.float32), exact, rtol=tolerance, atol=tolerance / 4
    )


def test_epoch_indices_are_a_permutation_without_the_remainder():
    first, second = (augmentation.epoch_indices(jax.random.key(k), 1437, 128) for k in (0, 1))
    assert first.shape == (11, 128) and first.dtype == jnp.int32
    assert len(np.unique(first)) == 11 * 128 and int(first.min()) >= 0 and int(first.max()) < 1437
    assert (first != second).any()
    np.testing.assert_array_equal(first, augmentation.epoch_indices(jax.random.key(0), 1437, 128))


def test_a_batch_larger_than_the_dataset_is_refused():
    with pytest.raises(UsageError, match="batch_size is 128; it must be at most 100"):
        augmentation.epoch_indices(jax.random.key(0), 100, 128)
