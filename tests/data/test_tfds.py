"""Data folders that lie are refused before memory is taken, and no label changes in silence."""

import json
import os
import shutil

import numpy as np
import pytest
from prepared_dataset import LABELS, PIXELS, shard, write_dataset

from bbo.data import tfds
from bbo.data.crc import crc32c
from bbo.settings.tfds_folder import find_prepared
from bbo.types import UsageError


def refused(root, told):
    with pytest.raises(UsageError, match=told):
        tfds.read_split(find_prepared("cifar10", str(root)), "train")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shardLengths": ["-7", "37"]}, "'-7' is no count"),
        ({"shardLengths": [7.5, 23]}, "7.5 is no count"),
        ({"shardLengths": ["7", "1000000000000000"]}, "tells of 1000000000000007 images of train"),
        ({"shardLengths": ["7", "1e15"]}, "does not describe"),
        ({"shardLengths": [7, float("inf")]}, "does not describe"),
        ({"shardLengths": []}, "tells of 0 images"),
        ({"shardLengths": ["7", "10" * 9], "numBytes": "9" * 30}, "promises 10101010101010"),
        ({"numBytes": -1}, "-1 is no count"),
        ({"filepathTemplate": "{0}"}, "KeyError\\('0'\\)"),
        ({"filepathTemplate": "{DATASET.__class__}-{SHARD_X_OF_Y}"}, "DATASET.__class__"),
        ({"filepathTemplate": "../{DATASET}-{SHARD_X_OF_Y}"}, "names no file for each shard"),
        ({"filepathTemplate": "/etc/passwd-{SHARD_INDEX}"}, "names no file for each shard"),
        ({"filepathTemplate": "one"}, "names no file for each shard"),
        ({"filepathTemplate": 3}, "does not describe"),
    ],
)
def test_records_that_lie_are_refused(tmp_path, changes, told):
    path = write_dataset(tmp_path) / "dataset_info.json"
    record = json.loads(path.read_text())
    record["splits"][0] |= changes
    path.write_text(json.dumps(record))
    refused(tmp_path, told)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (["60000", "60000", "3"], "promises 30 images of shape \\(60000, 60000, 3\\)"),
        ([10**6, 1, 1], "images of shape"),
        (["-6", "5", "3"], "'-6' is no count"),
        (["6", "5"], "images of shape \\(6, 5\\)"),
        ([0, 5, 3], "images of shape"),
        ([float("inf")] * 3, "does not describe"),
    ],
)
def test_shapes_that_lie_are_refused(tmp_path, shape, told):
    path = write_dataset(tmp_path) / "features.json"
    record = json.loads(path.read_text())
    record["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = shape
    path.write_text(json.dumps(record))
    refused(tmp_path, told)


def test_json_that_is_nested_deeply(tmp_path):
    directory = write_dataset(tmp_path)
    for name in ("features.json", "dataset_info.json"):
        (directory / name).write_text("[" * 100_000)
        refused(tmp_path, "nested too deeply")


def test_names_by_a_template(tmp_path):
    path = write_dataset(tmp_path) / "dataset_info.json"
    record = json.loads(path.read_text())
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}-of-{NUM_SHARDS}"
    record["splits"][0]["filepathTemplate"] = template
    path.write_text(json.dumps(record))
    images, _ = tfds.read_split(path.parent, "train")
    np.testing.assert_array_equal(images, PIXELS["train"])


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_every_flipped_bit_of_a_shard_is_seen(tmp_path, file_format):
    directory = write_dataset(tmp_path, file_format)
    path = shard(directory)
    content = path.read_bytes()
    end = content.rstrip(b"\0")  # array_record files are filled up
    for place in np.random.default_rng(0).choice(len(end), 60, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            found = tfds.read_split(directory, "train")
        except UsageError:
            continue
        for one, other in zip(found, (PIXELS["train"], LABELS["train"]), strict=True):
            np.testing.assert_array_equal(one, other)


def test_another_label_is_seen(tmp_path):
    path = shard(write_dataset(tmp_path, "tfrecord"))
    content = path.read_bytes()
    place = content.index(b"label") + 11  # of the number itself
    assert content[place] == LABELS["train"][0]
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    refused(tmp_path, "the check sum of record 0 is wrong")


def test_check_sums_do_not_depend_on_the_company():
    rng = np.random.default_rng(1)
    records = [rng.bytes(size) for size in (0, 5, 3000, 5, 17, 0, 1)]
    together, alone = crc32c(records), [crc32c([record])[0] for record in records]
    np.testing.assert_array_equal(together, alone)
    assert crc32c([b"123456789"])[0] == 0xE3069283  # the check value of the standard
    assert crc32c([]).shape == (0,)


def test_two_folders_do_not_share_a_cache(tmp_path):
    first = write_dataset(tmp_path / "first")
    swapped = {name: labels[::-1] for name, labels in LABELS.items()}
    second = write_dataset(tmp_path / "second", labels=swapped)
    for path in (*first.iterdir(), *second.iterdir()):
        os.utime(path, (1, 1))
    load = [
        tfds.load_cached("cifar10", str(tmp_path / name), str(tmp_path / "cache"))
        for name in ("first", "second", "first")
    ]
    for found, labels in zip(load, (LABELS, swapped, LABELS), strict=True):
        np.testing.assert_array_equal(found["train"][1], labels["train"])


def test_what_took_the_place_of_a_shard_is_read(tmp_path):
    directory = write_dataset(tmp_path, "tfrecord")
    swapped = {name: labels[::-1] for name, labels in LABELS.items()}
    other = write_dataset(tmp_path / "other", "tfrecord", labels=swapped)
    arguments = "cifar10", str(tmp_path), str(tmp_path / "cache")
    tfds.load_cached(*arguments)
    times = os.stat(shard(directory))
    for number in (0, 1):
        shutil.copyfile(shard(other, number=number), shard(directory, number=number))
        os.utime(shard(directory, number=number), ns=(times.st_atime_ns, times.st_mtime_ns))
    found = tfds.load_cached(*arguments)
    np.testing.assert_array_equal(found["train"][1], swapped["train"])
