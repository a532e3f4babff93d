"""Prepared datasets: found at once, refused clearly, read exactly, cached."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from prepared_dataset import LABELS, PIXELS, SPLITS, shard, write_dataset

from bbo.data import tfds as records
from bbo.settings.sections import DataConfig
from bbo.settings.tfds_folder import check_available, find_prepared, read_metadata
from bbo.types import UsageError


def refused(root, *parts):
    with pytest.raises(UsageError) as caught:
        find_prepared("cifar10", str(root))
    message = str(caught.value)
    assert "\n" not in message
    command = f"`python -m experiments.prepare --dataset=cifar10 --data_dir={root}`"
    for part in (command, "--manual_dir", "--dataset=digits", *parts):
        assert part in message


def test_a_missing_dataset_is_refused_at_once(tmp_path):
    start = time.perf_counter()
    refused(tmp_path, "no prepared cifar10", f"{tmp_path}/cifar10")
    refused(tmp_path / "nowhere", f"{tmp_path}/nowhere/cifar10")
    assert time.perf_counter() - start < 0.1
    (tmp_path / "cifar10").mkdir()
    refused(tmp_path, f"{tmp_path}/cifar10/<version>/dataset_info.json")


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "cifar10").touch()
    refused(tmp_path, "Not a directory")


def test_available_without_heavy_imports(tmp_path):
    check_available(DataConfig(dataset="digits", data_dir=str(tmp_path)))
    with pytest.raises(UsageError, match="no prepared svhn_cropped"):
        check_available(DataConfig(dataset="svhn_cropped", data_dir=str(tmp_path)))
    program = (
        "import sys, bbo.settings.tfds_folder; "
        "sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'tensorflow_datasets', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_newest_version_is_taken(tmp_path):
    for version in ("2.0.0", "10.0.0", "9.9.9"):
        write_dataset(tmp_path, version=version)
    (tmp_path / "cifar10" / "11.0.0.incomplete").mkdir()
    (tmp_path / "cifar10" / "12.0.0").mkdir()
    assert find_prepared("cifar10", str(tmp_path)) == tmp_path / "cifar10" / "10.0.0"


def test_a_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = write_dataset(tmp_path)
    assert find_prepared("cifar10", "~") == directory


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_bad_shards_are_seen_before_reading(file_format, tmp_path):
    path = shard(write_dataset(tmp_path, file_format))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 - 100])
    refused(tmp_path, "truncated" if file_format == "array_record" else "bytes of train, not")
    path.unlink()
    refused(tmp_path, f"{path} is missing")


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"fileFormat": "parquet"}, "parquet, which is not read: TFDS loses records"),
        ({"fileFormat": "bagz"}, "bagz, which is not read (array_record and tfrecord are)"),
        ({"splits": []}, "has no train split"),
        ({"splits": [{}]}, "does not describe a prepared dataset"),
    ],
)
def test_unusable_metadata(changes, part, tmp_path):
    path = write_dataset(tmp_path) / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if changes.get("fileFormat"):
        for old in path.parent.glob("*.array_record-*"):
            old.rename(str(old).replace("array_record", changes["fileFormat"]))
    refused(tmp_path, part)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_images_are_read_exactly(file_format, channels, tmp_path, caplog):
    pixels = {name: images[..., :channels] for name, images in PIXELS.items()}
    directory = write_dataset(tmp_path, file_format, pixels=pixels)
    for split in SPLITS:
        images, labels = records.read_split(directory, split)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(images, pixels[split])
        np.testing.assert_array_equal(labels, LABELS[split])
    assert caplog.records == []  # array_record's data source complains about group sizes
    assert "tensorflow" not in sys.modules


def damage(path, start, count=200):
    content = bytearray(path.read_bytes())
    content[start : start + count] = b"x" * count
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file_format, start", [("array_record", 300), ("tfrecord", 0), ("tfrecord", 300)]
)
def test_a_corrupted_file_is_named(file_format, start, tmp_path):
    directory = write_dataset(tmp_path, file_format)
    path = shard(directory, number=1)
    damage(path, start)
    with pytest.raises(UsageError, match=f"{path} is corrupted"):
        records.read_split(directory, "train")


def test_contradictions_of_the_metadata_are_refused(tmp_path):
    def check(name, old, new, reason):
        path = directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(UsageError, match=reason):
            records.read_split(directory, "train")
        path.write_text(text)

    directory = write_dataset(tmp_path)
    check("dataset_info.json", '["7", "23"]', '["7", "24"]', "23 records, not 24")
    check("features.json", '"6", "5"', '"5", "6"', r"shape \(6, 5, 3\), not \(5, 6, 3\)")
    check("features.json", '"numClasses": "10"', '"numClasses": "3"', r"label \d of record")
    check("features.json", "classLabel", "text", "does not describe labelled images")


def load(tmp_path):
    return records.load_cached("cifar10", str(tmp_path), str(tmp_path / "cache"))


def check_loaded(splits):
    for name in SPLITS:
        np.testing.assert_array_equal(splits[name][0], PIXELS[name])
        np.testing.assert_array_equal(splits[name][1], LABELS[name])


def test_the_cache_replaces_reading_until_a_shard_changes(tmp_path, monkeypatch):
    directory = write_dataset(tmp_path)
    check_loaded(load(tmp_path))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    read = []
    original = records.read_split
    monkeypatch.setattr(records, "read_split", lambda d, s: read.append(s) or original(d, s))
    check_loaded(load(tmp_path))
    assert read == []
    os.utime(shard(directory, "test"), (1, 1))
    check_loaded(load(tmp_path))
    assert read == ["test"]


@pytest.mark.parametrize("keep", [0, 100, 2000, None])
def test_a_damaged_cache_is_made_anew(keep, tmp_path, caplog):
    write_dataset(tmp_path)
    load(tmp_path)
    path = next((tmp_path / "cache").glob("*train*"))
    content = path.read_bytes()
    if keep is None:
        damage(path, 1000)
    else:
        path.write_bytes(content[:keep])
    check_loaded(load(tmp_path))
    assert "anew" in caplog.text
    assert path.read_bytes() == content


def test_an_unwritable_cache_is_a_warning(tmp_path, caplog):
    write_dataset(tmp_path)
    (tmp_path / "cache").touch()
    check_loaded(load(tmp_path))
    assert "not cached" in caplog.text


def test_an_interrupted_cache_leaves_nothing(tmp_path, monkeypatch):
    write_dataset(tmp_path)

    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def cifar10(shared_dir):
    root = shared_dir / "data" / "tensorflow_datasets"
    if not (root / "cifar10").is_dir():
        pytest.skip("needs a prepared CIFAR-10 beside the checkout")
    return root


def test_real_cifar10_is_found_in_milliseconds(cifar10):
    start = time.perf_counter()
    directory = find_prepared("cifar10", str(cifar10))
    assert time.perf_counter() - start < 0.01
    assert {k: sum(v.lengths) for k, v in read_metadata(directory).items()} == {
        "train": 50000,
        "test": 10000,
    }


@pytest.mark.slow
def test_real_cifar10(cifar10, tmp_path):
    for _ in ("decoded", "cached"):
        splits = records.load_cached("cifar10", str(cifar10), str(tmp_path))
        for name, total, each in (("train", 18537712937, 5000), ("test", 3732740007, 1000)):
            images, labels = splits[name]
            assert images.shape[1:] == (32, 32, 3) and images.sum(dtype=np.int64) == total
            assert np.bincount(labels).tolist() == [each] * 10
    assert "tensorflow" not in sys.modules
