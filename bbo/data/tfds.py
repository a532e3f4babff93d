"""Images out of prepared TFDS datasets: read without TensorFlow, and cached decoded."""

import hashlib
import io
import math
import os
import struct
import uuid
from pathlib import Path
from typing import TypeAlias

import numpy as np
from absl import logging
from tqdm import tqdm

from bbo.data.crc import masked_crc32c
from bbo.settings.tfds_folder import (
    Shards,
    check_files,
    find_prepared,
    read_features,
    read_metadata,
)
from bbo.types import UsageError

LARGEST_RATIO = 2000
"""More bytes of an image do not come out of a byte: deflate reaches 1032."""
Images: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Images uint8 [n, h, w, c] and labels int32 [n]."""


def load_cached(name: str, data_dir: str, cache_dir: str) -> dict[str, Images]:
    """The train and test splits of a prepared dataset, decoded once and then cached.

    A cache file belongs to one state of the dataset: its name contains a hash of the folder, and of
    the names, sizes and times of the shards. A damaged one is made anew; one that cannot be written
    is a warning.

    Raises:
      UsageError: the dataset is not prepared, or damaged.
    """
    directory = find_prepared(name, data_dir)
    return {split: _load_split(directory, split, cache_dir) for split in ("train", "test")}


def _load_split(directory: Path, split: str, cache_dir: str) -> Images:
    path = Path(cache_dir).expanduser() / _cache_name(directory, split)
    try:
        return _read_cache(path)
    except FileNotFoundError:
        pass
    except Exception as error:  # numpy and zipfile raise many kinds on damaged bytes
        logging.warning("making the cache %s anew: %s", path, error)
    images, labels = read_split(directory, split)
    try:
        _write_cache(path, images, labels)
    except OSError as error:
        logging.warning("decoded images are not cached: %s", error)
    return images, labels


def _cache_name(directory: Path, split: str) -> str:
    shards = read_metadata(directory)[split]
    states = [(path.name, path.stat()) for path in shards.paths]
    # Copies keep the time of the content; that of the inode tells that something took its place.
    key = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in states]
    told = (os.fspath(directory.resolve()), shards.lengths, key)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return f"{directory.parent.name}-{directory.name}-{split}-{digest}.npz"


def _read_cache(path: Path) -> Images:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or labels.dtype != np.int32 or len(images) != len(labels):
        raise ValueError("its arrays are not images and labels")
    return images, labels


def _write_cache(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: a reader never sees half a file, whatever is interrupted. The
    # processes of a run may do this at once, on several machines.
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, images=images, labels=labels)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_split(directory: Path, split: str) -> Images:
    """Decodes one split.

    Args:
      directory: a version directory, of ``find_prepared``.
      split: its name, for instance ``train``.

    Returns:
      images uint8 [n, h, w, c] and labels int32 [n], in the order of the records.

    Raises:
      UsageError: a corrupted file, or images, labels or counts that contradict the metadata.
    """
    splits = read_metadata(directory)
    check_files(directory, split, splits)
    shards = splits[split]
    shape, num_classes = read_features(directory)
    _check_size(directory, shards, shape)
    images = np.empty((sum(shards.lengths), *shape), np.uint8)
    labels = np.empty(len(images), np.int32)
    read = _read_array_record if shards.file_format == "array_record" else _read_tfrecord
    # Shown on a terminal only, and only when the work takes more than a second.
    with tqdm(total=len(images), desc=f"decoding {split}", disable=None, delay=1) as progress:
        start = 0
        for path, length in zip(shards.paths, shards.lengths, strict=True):
            try:
                records = read(path)
                if len(records) != length:
                    raise ValueError(f"{len(records)} records, not {length}")
                for row, record in enumerate(records, start):
                    images[row], labels[row] = _decode(record, shape)
                    if not 0 <= labels[row] < num_classes:
                        raise ValueError(f"label {labels[row]} of record {row - start}")
                    progress.update()
            except Exception as error:  # whatever the decoders raise on damaged bytes
                reason = " ".join(str(error).split())
                raise UsageError(f"{path} is corrupted ({reason}); prepare it anew") from error
            start += length
    return images, labels


def _check_size(directory: Path, shards: Shards, shape: tuple[int, ...]) -> None:
    """Raises UsageError if so many images of this shape cannot come out of the files."""
    promised = sum(shards.lengths) * math.prod(shape)
    held = sum(path.stat().st_size for path in shards.paths)
    if promised > LARGEST_RATIO * held:
        raise UsageError(
            f"{directory} promises {sum(shards.lengths)} images of shape {shape} in {held} bytes; "
            "prepare it anew"
        )


def _read_array_record(path: Path) -> list[bytes]:
    # The reader itself, not its data source, which complains about files in compact groups.
    from array_record.python import array_record_module  # pyright: ignore

    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    try:
        return reader.read_all()
    finally:
        reader.close()


def _read_tfrecord(path: Path) -> list[bytes]:
    """Records framed as length uint64, its CRC uint32, bytes, their CRC uint32."""
    content = path.read_bytes()
    records, lengths, told, offset = [], [], [], 0
    while offset < len(content):
        (size,) = struct.unpack_from("<Q", content, offset)
        if offset + 16 + size > len(content):
            raise ValueError(f"truncated in record {len(records)}")
        end = offset + 12 + size
        records.append(content[offset + 12 : end])
        lengths.append(content[offset : offset + 8])
        told.append((content[offset + 8 : offset + 12], content[end : end + 4]))
        offset = end + 4
    for parts, sums in ((lengths, [a for a, _ in told]), (records, [b for _, b in told])):
        wrong = np.flatnonzero(masked_crc32c(parts) != np.frombuffer(b"".join(sums), "<u4"))
        if len(wrong):
            raise ValueError(f"the check sum of record {wrong[0]} is wrong")
    return records


def _decode(record: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore
    feature = example.features.feature
    content = feature["image"].bytes_list.value[0]
    image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    mode = "RGB" if shape[-1] == 3 else "L"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # a grey image has no channel axis yet
    if pixels.shape != shape:
        raise ValueError(f"an image of shape {pixels.shape}, not {shape}")
    return pixels, feature["label"].int64_list.value[0]
