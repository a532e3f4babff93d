"""A prepared dataset of random images, as TFDS would write it."""

import io
import json
import os
import struct

import numpy as np
from PIL import Image

from bbo.data.crc import masked_crc32c

RNG = np.random.default_rng(0)
SPLITS = {"train": 30, "test": 10}
PIXELS = {name: RNG.integers(0, 256, (n, 6, 5, 3), np.uint8) for name, n in SPLITS.items()}
LABELS = {name: RNG.integers(0, 10, n) for name, n in SPLITS.items()}


def serialise(pixels, label):
    from tensorflow_datasets.proto import tf_example_pb2

    content = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(content, format="png")
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(content.getvalue())
    example.features.feature["label"].int64_list.value.append(int(label))
    return example.SerializeToString(deterministic=True)


def write_shard(path, examples):
    if "array_record" in path.name:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(os.fspath(path), "group_size:32")
        for example in examples:
            writer.write(example)
        writer.close()
    else:
        sizes = [struct.pack("<Q", len(example)) for example in examples]
        sums = [[struct.pack("<I", crc) for crc in masked_crc32c(of)] for of in (sizes, examples)]
        frames = zip(sizes, sums[0], examples, sums[1], strict=True)
        path.write_bytes(b"".join(b"".join(frame) for frame in frames))


def write_dataset(root, file_format="array_record", version="1.0.0", pixels=PIXELS, labels=LABELS):
    """A dataset named cifar10 of random images, each split in two shards."""
    directory = root / "cifar10" / version
    directory.mkdir(parents=True)
    entries = []
    for split in SPLITS:
        pairs = zip(pixels[split], labels[split], strict=True)
        examples = [serialise(image, label) for image, label in pairs]
        shards = [examples[:7], examples[7:]]
        for number, shard in enumerate(shards):
            name = f"cifar10-{split}.{file_format}-{number:05d}-of-00002"
            write_shard(directory / name, shard)
        lengths = [str(len(shard)) for shard in shards]
        size = str(sum(map(len, examples)))
        entries.append({"name": split, "shardLengths": lengths, "numBytes": size})
    info = {"name": "cifar10", "fileFormat": file_format, "splits": entries}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    shape = {"dimensions": [str(size) for size in pixels["train"].shape[1:]]}
    features = {"image": {"image": {"shape": shape}}, "label": {"classLabel": {"numClasses": "10"}}}
    text = json.dumps({"featuresDict": {"features": features}})
    (directory / "features.json").write_text(text)
    return directory


def shard(directory, split="train", number=0):
    return next(directory.glob(f"*-{split}.*-{number:05d}-of-*"))
