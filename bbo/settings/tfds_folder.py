"""Prepared TFDS datasets: found on the disk and checked within milliseconds.

A prepared dataset is ``<data_dir>/<name>/<version>/`` with ``dataset_info.json``,
``features.json`` and shards of serialised ``tf.Example`` records. Nothing here downloads.
Importing this module imports the standard library only, so that a program can report a missing
dataset before it loads anything heavy.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bbo.files import parse_json
from bbo.settings.catalog import DATASETS
from bbo.settings.installed import with_names_here
from bbo.settings.sections import DataConfig
from bbo.types import UsageError

BLOCK = 64 * 1024
"""Bytes; an array_record file is a whole number of such blocks, one at least."""

LARGEST = 65535
"""Pixels on a side; that is where JPEG ends."""


class Shards(NamedTuple):
    """The files of one split, in order, and the number of records in each."""

    file_format: str
    paths: list[Path]
    lengths: list[int]
    num_bytes: int
    """Of all records, before compression."""


def find_prepared(name: str, data_dir: str) -> Path:
    """The directory of the newest prepared version of a dataset, its files checked by size.

    Raises:
      UsageError: absent, unreadable, incomplete, or in a format that cannot be read.
    """
    folder = Path(data_dir).expanduser() / name
    command = with_names_here("python -m experiments.prepare")
    remedy = (
        f"prepare it with `{command} --dataset={name} --data_dir={data_dir}` "
        "(with --manual_dir=DIR if you have the original archive), or take the embedded images"
        " with --dataset=digits"
    )
    try:
        directory = _newest_version(folder)
        splits = read_metadata(directory)
        for split in ("train", "test"):
            check_files(directory, split, splits)
    except FileNotFoundError as error:
        raise UsageError(f"no prepared {name}: {error.filename} is missing; {remedy}") from None
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}; {remedy}") from None
    except UsageError as error:
        raise UsageError(f"{error}; move {folder} away and {remedy}") from None
    return directory


def check_available(config: DataConfig) -> None:
    """Checks in milliseconds that the images of a configuration can be had.

    Raises:
      UsageError: the dataset is not prepared, or not usable.
    """
    if DATASETS[config.dataset].prepared:
        find_prepared(config.dataset, config.data_dir)


def image_bytes(config: DataConfig) -> int:
    """Of all images of a configuration, decoded; 0 of those that come with a library.

    Raises:
      UsageError: as ``check_available``.
    """
    info = DATASETS[config.dataset]
    if not info.prepared:
        return 0
    splits = read_metadata(find_prepared(config.dataset, config.data_dir))
    count = sum(sum(splits[name].lengths) for name in ("train", "test"))
    return count * math.prod(info.image_shape)


def _newest_version(folder: Path) -> Path:
    candidates = [path for path in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    found = [path for path in candidates if (path / "dataset_info.json").is_file()]
    if not found:
        missing = folder / "<version>" / "dataset_info.json"
        raise FileNotFoundError(None, "missing", str(missing))
    return max(found, key=lambda path: tuple(int(part) for part in path.name.split(".")))


def read_metadata(directory: Path) -> dict[str, Shards]:
    """The splits of a version directory by name, from ``dataset_info.json``.

    Raises:
      UsageError: the file describes something else.
    """
    path = directory / "dataset_info.json"
    try:
        record = parse_json(path.read_text())
        file_format = record.get("fileFormat", "tfrecord")
        return {
            entry["name"]: Shards(
                file_format,
                [directory / name for name in _shard_names(record["name"], entry, file_format)],
                [_count(length) for length in entry["shardLengths"]],
                _count(entry["numBytes"]),
            )
            for entry in record["splits"]
        }
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path} does not describe a prepared dataset ({error!r})") from None


def _shard_names(name: str, entry: Mapping[str, Any], file_format: str) -> list[str]:
    default = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    template = entry.get("filepathTemplate", default)
    count = len(entry["shardLengths"])
    known = {"DATASET": name, "SPLIT": entry["name"], "FILEFORMAT": file_format}
    known["NUM_SHARDS"] = f"{count:05d}"
    names = []
    for index in range(count):
        own = {"SHARD_INDEX": f"{index:05d}", "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}"}
        # Not str.format, which would look into attributes and items of what it is given.
        names.append(re.sub(r"\{(\w*)\}", lambda found: (known | own)[found[1]], template))  # noqa: B023
    if len(set(names)) < count or any(Path(name).name != name for name in names):
        raise ValueError(f"filepathTemplate {template!r} names no file for each shard")
    return names


def _count(value: Any) -> int:
    """A number that is told as a number or text."""
    count = int(value)
    if count < 0 or isinstance(value, float) and value != count:
        raise ValueError(f"{value!r} is no count")
    return count


def check_files(directory: Path, split: str, splits: Mapping[str, Shards]) -> None:
    """Checks that the files of a split exist, in a format that is read, and are not cut short.

    Raises:
      OSError: a file is missing.
      UsageError: anything else.
    """
    if split not in splits:
        found = ", ".join(splits) or "no split"
        raise UsageError(f"{directory} has no {split} split (it has {found})")
    shards = splits[split]
    total = sum(shards.lengths)
    if not shards.paths or total > shards.num_bytes:
        raise UsageError(
            f"{directory} tells of {total} images of {split} in {shards.num_bytes} bytes"
        )
    sizes = [path.stat().st_size for path in shards.paths]
    if shards.file_format == "array_record":
        for path, size in zip(shards.paths, sizes, strict=True):
            if size < BLOCK or size % BLOCK:
                raise UsageError(f"{path} is truncated or not an array_record file ({size} bytes)")
    elif shards.file_format == "tfrecord":
        needed = shards.num_bytes + 16 * sum(shards.lengths)  # each record has 16 bytes around it
        if sum(sizes) < needed:
            raise UsageError(f"{directory} holds {sum(sizes)} bytes of {split}, not {needed}")
    else:
        reason = ": TFDS loses records when it writes it" if shards.file_format == "parquet" else ""
        raise UsageError(
            f"{directory} is in the format {shards.file_format}, which is not read{reason}"
            " (array_record and tfrecord are)"
        )


def read_features(directory: Path) -> tuple[tuple[int, ...], int]:
    """The shape of the images, (h, w, c), and the number of classes, from ``features.json``.

    Raises:
      UsageError: the file is missing, or describes something else.
    """
    path = directory / "features.json"
    try:
        features = parse_json(path.read_text())["featuresDict"]["features"]
        shape = features["image"]["image"]["shape"]["dimensions"]
        num_classes = features["label"]["classLabel"]["numClasses"]
        found = tuple(_count(size) for size in shape)
        if len(found) != 3 or not all(0 < size <= LARGEST for size in found):
            raise ValueError(f"images of shape {found}")
        return found, _count(num_classes)
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path} does not describe labelled images ({error!r})") from None
