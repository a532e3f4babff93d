"""The builders of TFDS for five datasets, with the steps that import TensorFlow replaced.

Those steps are unpacking an archive, opening the raw files, and encoding arrays as PNG. Examples,
their order and their ids are those of the official builders.
"""

import gzip
import io
import math
import tarfile

import numpy as np
from PIL import Image
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as svhn
from tensorflow_datasets.image_classification import cifar, mnist


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")  # bytes are stored as they are
    return buffer.getvalue()


def _cifar_splits(builder, dl_manager):
    info = builder._cifar_info
    with tarfile.open(dl_manager.download(info.url)) as archive:
        names = (*info.train_files, *info.test_files, *info.label_files)
        contents = {name: archive.extractfile(info.prefix + name).read() for name in names}
    for key, name in zip(info.label_keys, info.label_files, strict=True):
        builder.info.features[key].names = contents[name].decode().split()
    return {
        "train": _cifar_examples(info, "train_", [contents[name] for name in info.train_files]),
        "test": _cifar_examples(info, "test_", [contents[name] for name in info.test_files]),
    }


def _cifar_examples(info, prefix, contents):
    """A record is one byte per label, then 3072 bytes: an image [channel, row, column]."""
    keys = info.label_keys
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, len(keys) + 3072)
    for index, record in enumerate(records):
        labels = dict(zip(keys, record[: len(keys)], strict=True))
        pixels = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
        yield index, {**labels, "id": f"{prefix}{index:05d}", "image": _png(pixels.copy())}


class Cifar10(cifar.Cifar10, skip_registration=True):
    """CIFAR-10."""

    name = "cifar10"
    _split_generators = _cifar_splits


class Cifar100(cifar.Cifar100, skip_registration=True):
    """CIFAR-100, with its coarse labels."""

    name = "cifar100"
    _split_generators = _cifar_splits


class SvhnCropped(svhn.Builder, skip_registration=True):
    """The train and test splits of SVHN; the official builder also takes ``extra`` (1.33 GB)."""

    name = "svhn_cropped"
    # A builder looks for checksums and citation beside its own module.
    url_infos = svhn.Builder.url_infos
    pkg_dir_path = svhn.Builder.pkg_dir_path

    def _split_generators(self, dl_manager):
        names = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
        paths = dl_manager.download({key: svhn.URL + name for key, name in names.items()})
        return {key: self._generate_examples(f"{key}_", path) for key, path in paths.items()}

    def _generate_examples(self, split_prefix, filepath):
        from scipy import io as scipy_io

        data = scipy_io.loadmat(filepath)
        images, labels = np.moveaxis(data["X"], -1, 0), data["y"].ravel() % 10  # 10 means 0
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            record = {"image": _png(np.ascontiguousarray(pixels)), "label": label}
            yield index, {**record, "id": f"{split_prefix}{index:06d}"}


def _mnist_splits(builder, dl_manager):
    # Not by dl_manager.download, which takes no archive that was packed again.
    return {
        split: _mnist_examples(
            dl_manager.manual_dir / f"{prefix}-images-idx3-ubyte.gz",
            dl_manager.manual_dir / f"{prefix}-labels-idx1-ubyte.gz",
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _mnist_examples(images_path, labels_path):
    images, labels = _read_idx(images_path), _read_idx(labels_path)
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": _png(pixels), "label": label}


def _read_idx(path):
    """The array of bytes in an IDX file: its number of axes, their lengths, and the bytes."""
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3]
    shape = tuple(np.frombuffer(content, ">i4", axes, offset=4).tolist())
    return np.frombuffer(content, np.uint8, math.prod(shape), offset=4 + 4 * axes).reshape(shape)


class Mnist(mnist.MNIST, skip_registration=True):
    """MNIST."""

    name = "mnist"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "the four files under their original names"
    _split_generators = _mnist_splits


class FashionMnist(mnist.FashionMNIST, skip_registration=True):
    """Fashion-MNIST."""

    name = "fashion_mnist"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "the four files under their original names"
    _split_generators = _mnist_splits


BUILDERS = {
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "svhn_cropped": SvhnCropped,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
}
