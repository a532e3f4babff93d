"""Prepares CIFAR-10, CIFAR-100, SVHN, MNIST or Fashion-MNIST for TFDS, without TensorFlow.

    python -m experiments.prepare --dataset=cifar10 --data_dir=~/tensorflow_datasets

downloads the original archive (170 MB), or takes it from --manual_dir=DIR under its original
name, checks its SHA-256, and writes <data_dir>/<dataset>/<version>/ in the array_record format.
That directory appears complete or not at all; the download is not kept.
"""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path

from absl import flags
from tqdm import tqdm

from bbo.settings.tfds_folder import find_prepared, read_metadata
from bbo.types import UsageError

TIMEOUT = 10
"""Seconds without an answer after which a server counts as unreachable."""
TORONTO = "https://www.cs.toronto.edu/~kriz/"
STANFORD = "http://ufldl.stanford.edu/housenumbers/"
GOOGLE = "https://storage.googleapis.com/cvdf-datasets/mnist/"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ARCHIVES = {
    "cifar10": (TORONTO + "cifar-10-binary.tar.gz",),
    "cifar100": (TORONTO + "cifar-100-binary.tar.gz",),
    # Without the split "extra": 1.33 GB that no experiment here reads.
    "svhn_cropped": (STANFORD + "train_32x32.mat", STANFORD + "test_32x32.mat"),
    "mnist": tuple(GOOGLE + name for name in IDX_FILES),
    "fashion_mnist": tuple(ZALANDO + name for name in IDX_FILES),
}
UNPACKED = {
    ZALANDO + name: digest
    for name, digest in zip(
        IDX_FILES,
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        strict=True,
    )
}
"""SHA-256 of what a gzip file holds: Debian's dataset-fashion-mnist packs the same bytes again."""

FLAGS = flags.FlagValues()
flags.DEFINE_enum("dataset", None, list(ARCHIVES), "what to prepare", flag_values=FLAGS)
flags.DEFINE_string(
    "data_dir", "~/tensorflow_datasets", "folder of prepared datasets", flag_values=FLAGS
)
flags.DEFINE_string(
    "manual_dir",
    None,
    "folder that holds the original archives; nothing is downloaded",
    flag_values=FLAGS,
)


def prepare(name: str, data_dir: str, manual_dir: str | None = None) -> Path:
    """Writes ``<data_dir>/<name>/<version>`` and returns it; nothing is left after an error.

    Raises:
      UsageError: no archive, no network, a wrong archive, or a folder that cannot be written.
    """
    root = Path(data_dir).expanduser()
    if manual_dir is not None:
        _check_archives(name, Path(manual_dir).expanduser())
    try:
        with _workplace(root) as work:
            archives = Path(manual_dir).expanduser() if manual_dir else _download(name, work)
            built = _build(name, work, archives)
            target = root / name / built.name
            target.parent.mkdir(exist_ok=True)
            os.rename(built, target)
    except OSError as error:
        raise UsageError(f"cannot prepare {name} in {root}: {error}") from error
    return target


def _check_archives(name: str, folder: Path) -> None:
    for url in ARCHIVES[name]:
        if not (folder / os.path.basename(url)).is_file():
            raise UsageError(
                f"manual_dir {folder} has no {os.path.basename(url)}; it is published at {url}"
            )


@contextlib.contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``root``; folders made in vain are removed too."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as work:
            yield Path(work)
    finally:
        with contextlib.suppress(OSError):  # not empty: it holds the new dataset
            for path in made:
                path.rmdir()


def _download(name: str, work: Path) -> Path:
    # Not the downloader of TFDS: it has no timeout, and retries for minutes without a network.
    folder = work / "archives"
    folder.mkdir()
    for url in ARCHIVES[name]:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                size = int(response.headers.get("Content-Length", 0)) or None
                with (
                    tqdm.wrapattr(response, "read", size, desc="download", disable=None) as source,
                    open(folder / os.path.basename(url), "wb") as file,
                ):
                    shutil.copyfileobj(source, file, 2**20)
        except (OSError, HTTPException) as error:
            raise UsageError(
                f"cannot download {url} ({error}); on a machine without network, bring the file "
                "yourself and name its folder with --manual_dir=DIR"
            ) from error
    return folder


def _build(name: str, work: Path, archives: Path) -> Path:
    """Runs the builder of TFDS in ``work``; the version directory it made."""
    import tensorflow_datasets as tfds

    from experiments.prepare.builders import BUILDERS

    builder = BUILDERS[name](data_dir=os.fspath(work), file_format="array_record")
    _check_sums(name, archives, builder.url_infos or {})
    config = tfds.download.DownloadConfig(manual_dir=os.fspath(archives), try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints the name of ``work``
        builder.download_and_prepare(
            download_dir=os.fspath(work / "downloads"), download_config=config
        )
    return Path(builder.data_dir)


def _check_sums(name: str, archives: Path, known: Mapping) -> None:
    # TFDS checks too, but among its progress bars, and in eight lines.
    from tensorflow_datasets.core.download import checksums

    known = {**checksums.get_all_url_infos(), **known}
    for url in ARCHIVES[name]:
        path = archives / os.path.basename(url)
        if checksums.compute_url_info(path).checksum != known[url].checksum and _unpacked_sum(
            path
        ) != UNPACKED.get(url):
            raise UsageError(
                f"{path} has the wrong SHA-256: it is damaged or another version than the one "
                f"published at {url}; fetch it anew"
            )


def _unpacked_sum(path: Path) -> str:
    """SHA-256 of what a gzip file holds; empty if it is none."""
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore
    except (OSError, EOFError, zlib.error):
        return ""


def counts(splits: Mapping) -> str:
    """The splits and their numbers of images, for people: ``50000 train, 10000 test``."""
    return ", ".join(f"{sum(shards.lengths)} {name}" for name, shards in splits.items())


def main(flag_values: flags.FlagValues) -> None:
    """Prepares one dataset, unless it is there already."""
    name, data_dir = flag_values.dataset, flag_values.data_dir
    if name is None:
        raise UsageError(f"name what to prepare with --dataset={'|'.join(ARCHIVES)}")
    if list((Path(data_dir).expanduser() / name).glob("*/dataset_info.json")):
        directory, state = find_prepared(name, data_dir), "was already prepared"
    else:
        directory, state = prepare(name, data_dir, flag_values.manual_dir), "is prepared"
    print(f"{name} {state}: {directory} ({counts(read_metadata(directory))} images)")
