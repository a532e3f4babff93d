"""The program that prepares datasets, on tiny archives in the official layouts."""

import gzip
import hashlib
import io
import sys
import tarfile
import urllib.request

import numpy as np
import pytest
from mistakes import check_told

from bbo.data.tfds import read_split
from bbo.settings.tfds_folder import find_prepared
from experiments.command_line.program import run_program
from experiments.prepare import program
from experiments.prepare.program import ARCHIVES, FLAGS, main

RNG = np.random.default_rng(0)
NAMES = [f"class_{i}" for i in range(10)]


def run(*argv):
    return run_program(main, FLAGS, ["prepare", *argv])


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def cifar_file(labels, images):
    """Labels [n, k] and images [n, 32, 32, 3] in the binary layout."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes()


def draw(count, classes):
    return RNG.integers(0, 256, (count, 32, 32, 3), np.uint8), RNG.integers(0, classes, (count, 1))


def make_cifar10(folder):
    train, test = draw(150, 10), draw(50, 10)
    files = {"batches.meta.txt": "\n".join([*NAMES, ""]).encode()}
    for number in range(5):
        rows = slice(30 * number, 30 * number + 30)
        files[f"data_batch_{number + 1}.bin"] = cifar_file(train[1][rows], train[0][rows])
    files["test_batch.bin"] = cifar_file(test[1], test[0])
    write_tar(
        folder / "cifar-10-binary.tar.gz",
        {f"cifar-10-batches-bin/{name}": content for name, content in files.items()},
    )
    return {"train": train, "test": test}


def make_cifar100(folder):
    splits = {"train": draw(40, 100), "test": draw(20, 100)}
    files = {
        f"{name}.bin": cifar_file(np.concatenate([labels // 5, labels], axis=1), images)
        for name, (images, labels) in splits.items()
    }
    files["coarse_label_names.txt"] = "\n".join(f"c{i}" for i in range(20)).encode()
    files["fine_label_names.txt"] = "\n".join(f"f{i}" for i in range(100)).encode()
    write_tar(
        folder / "cifar-100-binary.tar.gz",
        {f"cifar-100-binary/{name}": content for name, content in files.items()},
    )
    return splits


def make_svhn(folder):
    from scipy import io as scipy_io

    splits = {"train": draw(40, 10), "test": draw(20, 10)}
    for name, (images, labels) in splits.items():
        ten = np.where(labels == 0, 10, labels).astype(np.uint8)  # the archive's name for zero
        content = {"X": np.moveaxis(images, 0, -1), "y": ten}
        scipy_io.savemat(folder / f"{name}_32x32.mat", content)
    return splits


def make_mnist(folder):
    splits = {}
    for name, prefix, count in (("train", "train", 40), ("test", "t10k", 20)):
        images = RNG.integers(0, 256, (count, 28, 28, 1), np.uint8)
        labels = RNG.integers(0, 10, (count, 1))
        splits[name] = images, labels
        for kind, array in (("images", images[..., 0]), ("labels", labels[:, 0])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            path = folder / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return splits


MAKERS = {
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "svhn_cropped": make_svhn,
    "mnist": make_mnist,
    "fashion_mnist": make_mnist,
}


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


def accept(monkeypatch, name, folder):
    """Registers the checksums of the archives in a folder in place of the published ones."""
    from tensorflow_datasets.core.download import checksums

    from experiments.prepare import builders

    infos = {}
    for url in ARCHIVES[name]:
        path = folder / url.rsplit("/", 1)[1]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        infos[url] = checksums.UrlInfo(path.stat().st_size, digest, path.name)
    monkeypatch.setattr(checksums, "get_all_url_infos", dict)  # a new one: TFDS writes into it
    monkeypatch.setattr(builders.BUILDERS[name], "url_infos", infos)


def by_content(images, labels):
    return sorted((im.tobytes(), int(la)) for im, la in zip(images, labels, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_prepared_images_are_those_of_the_archive(name, tmp_path, archives, monkeypatch, capsys):
    splits = MAKERS[name](archives)
    accept(monkeypatch, name, archives)
    argv = [f"--dataset={name}", f"--data_dir={tmp_path}/a/b", f"--manual_dir={archives}"]
    assert run(*argv) == 0
    directory = find_prepared(name, f"{tmp_path}/a/b")
    train, test = len(splits["train"][0]), len(splits["test"][0])
    out = capsys.readouterr().out
    assert out == f"{name} is prepared: {directory} ({train} train, {test} test images)\n"
    for split, (images, labels) in splits.items():
        found_images, found_labels = read_split(directory, split)
        assert found_images.dtype == np.uint8 and found_labels.dtype == np.int32
        assert by_content(found_images, found_labels) == by_content(images, labels[:, 0])
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == [name]  # nothing else is left
    assert run(*argv) == 0
    assert "was already prepared" in capsys.readouterr().out
    assert "tensorflow" not in sys.modules


def test_an_archive_that_was_packed_again(tmp_path, archives, monkeypatch, capsys):
    make_mnist(archives)
    accept(monkeypatch, "fashion_mnist", archives)
    argv = ["--dataset=fashion_mnist", f"--data_dir={tmp_path}/data", f"--manual_dir={archives}"]
    path = archives / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content, 1, mtime=1))
    check_error(capsys, run(*argv), "t10k-labels-idx1-ubyte.gz has the wrong SHA-256")
    url = next(url for url in ARCHIVES["fashion_mnist"] if url.endswith(path.name))
    monkeypatch.setitem(program.UNPACKED, url, hashlib.sha256(content).hexdigest())
    assert run(*argv) == 0


def check_error(capsys, status, *parts):
    assert status == 2
    check_told(capsys, *parts)


def test_no_network(tmp_path, monkeypatch, capsys):
    def refuse(url, timeout):
        assert timeout <= 10
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    status = run("--dataset=cifar10", f"--data_dir={tmp_path}/a/b")
    check_error(capsys, status, "cifar-10-binary.tar.gz", "no route", "--manual_dir")
    assert list(tmp_path.iterdir()) == []


def test_download(tmp_path, archives, monkeypatch, capsys):
    make_cifar10(archives)
    accept(monkeypatch, "cifar10", archives)

    class Response(io.BytesIO):
        headers = {"Content-Length": str((archives / "cifar-10-binary.tar.gz").stat().st_size)}

    def urlopen(url, timeout):
        return Response((archives / url.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert run("--dataset=cifar10", f"--data_dir={tmp_path}/a") == 0
    assert "150 train, 50 test" in capsys.readouterr().out


def test_a_wrong_archive(tmp_path, archives, capsys):
    make_cifar10(archives)  # not the published bytes
    status = run("--dataset=cifar10", f"--data_dir={tmp_path}/a", f"--manual_dir={archives}")
    path = archives / "cifar-10-binary.tar.gz"
    check_error(capsys, status, f"{path} has the wrong SHA-256", "https://www.cs.toronto.edu")
    assert not (tmp_path / "a").exists()


def test_a_missing_archive(tmp_path, archives, capsys):
    status = run("--dataset=cifar10", f"--data_dir={tmp_path}/a", f"--manual_dir={archives}")
    check_error(capsys, status, "has no cifar-10-binary.tar.gz", "https://www.cs.toronto.edu")
    assert not (tmp_path / "a").exists()


def test_an_unwritable_target(tmp_path, archives, capsys):
    (tmp_path / "file").touch()
    make_cifar10(archives)
    status = run("--dataset=cifar10", f"--data_dir={tmp_path}/file/a", f"--manual_dir={archives}")
    check_error(capsys, status, f"{tmp_path}/file/a", "Not a directory")


def test_an_unknown_dataset(capsys):
    check_error(
        capsys, run("--dataset=imagenet"), "--dataset=imagenet", "cifar10|cifar100|svhn_cropped"
    )


def test_a_damaged_dataset_is_not_called_prepared(tmp_path, capsys):
    directory = tmp_path / "cifar10" / "3.0.2"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text("{")
    check_error(
        capsys, run("--dataset=cifar10", f"--data_dir={tmp_path}"), "dataset_info.json", "move"
    )
