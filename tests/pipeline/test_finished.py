"""Of a finished run that is damaged it is told which file, and none of it is taken for a result."""

import pytest

from bbo import files
from bbo.pipeline.finished import damaged_records, read_run
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError
from tests.helpers.finished_runs import make_run

CONFIG = override(ExperimentConfig(), sparsities=(0.0, 0.5, 0.6), recovery=("none",))
NAMES = ("config.json", "curve.csv", "summary.json")


def finished(folder, *, sums=True):
    make_run(folder)
    if sums:
        (folder / files.SUMS).write_text(files.sums_of(folder, NAMES))
    return folder


def cut(content):
    return content[: len(content) // 2]


def zeroed(content):
    return b"\0" * len(content)


def flipped(content):
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def cut_at_a_line(content):
    return b"".join(content.splitlines(keepends=True)[:-1])


def emptied(content):
    return content[:0]


@pytest.mark.parametrize("damage", [cut, zeroed, flipped, cut_at_a_line, emptied])
@pytest.mark.parametrize("name", [*NAMES, files.SUMS])
def test_each_file_is_seen_to_be_damaged(name, damage, tmp_path):
    folder = finished(tmp_path / "run")
    assert damaged_records(folder, CONFIG) == [] and read_run(folder, "run").config == CONFIG
    path = folder / name
    before = path.read_bytes()
    path.write_bytes(damage(before))
    if path.read_bytes() == before:  # nothing of an empty file, nor the last line of one
        pytest.skip("no damage")
    found = damaged_records(folder, CONFIG)
    assert len(found) == 1 and (name == files.SUMS or found == [name])
    with pytest.raises(UsageError, match=r"^damaged: \S+ cannot be read \("):
        read_run(folder, "run")


@pytest.mark.parametrize("name", ["curve.csv", "summary.json"])
@pytest.mark.parametrize("damage", [cut, zeroed, emptied, cut_at_a_line])
def test_a_run_without_digests_is_read_and_its_cuts_are_seen(name, damage, tmp_path):
    folder = finished(tmp_path / "run", sums=False)
    assert damaged_records(folder, CONFIG) == []
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    assert damaged_records(folder, CONFIG) == [name]
    path.unlink()
    assert damaged_records(folder, CONFIG) == [name]


def test_points_of_iterations_are_counted(tmp_path):
    folder = finished(tmp_path / "run", sums=False)  # 0 and two more
    path = folder / "curve.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if ",weight," not in line))
    one = override(CONFIG, granularity=("filter",), sparsities=(0.0, 0.5))
    assert damaged_records(folder, override(one, prune_iterations=2)) == []
    assert damaged_records(folder, override(one, prune_iterations=3)) == ["curve.csv"]
