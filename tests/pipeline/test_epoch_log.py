"""Metrics: one record per epoch in JSON lines, whatever was cut short, and TensorBoard events."""

import json

import pytest

from bbo.files import read_lines
from bbo.pipeline.epoch_log import metrics_writer


def write(folder, epochs, *, resumed_epoch=0, loss=1.0):
    with metrics_writer(folder, resumed_epoch=resumed_epoch) as write_one:
        for epoch in epochs:
            write_one(epoch, {"loss": loss / epoch, "accuracy": 0.5})


def test_one_line_per_epoch(tmp_path):
    write(tmp_path, [1, 2])
    expected = [
        {"epoch": 1, "loss": 1.0, "accuracy": 0.5},
        {"epoch": 2, "loss": 0.5, "accuracy": 0.5},
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [len(line.pop("digest")) for line in found] == [16, 16] and found == expected
    assert read_lines(tmp_path / "metrics.jsonl") == expected
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_a_record_is_in_the_file_at_once(tmp_path):
    with metrics_writer(tmp_path) as write_one:
        write_one(1, {"loss": 1.0})
        assert len(read_lines(tmp_path / "metrics.jsonl")) == 1


def test_resuming_removes_the_epochs_that_were_lost(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [2, 3, 4], resumed_epoch=1, loss=12.0)
    records = read_lines(tmp_path / "metrics.jsonl")
    assert [(record["epoch"], record["loss"]) for record in records] == [
        (1, 1.0),
        (2, 6.0),
        (3, 4.0),
        (4, 3.0),
    ]
    write(tmp_path, [])
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_a_line_cut_short_is_dropped(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-10])
    assert [record["epoch"] for record in read_lines(path)] == [1]
    write(tmp_path, [2], resumed_epoch=2)
    assert [record["epoch"] for record in read_lines(path)] == [1, 2]


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content.replace(b"0.5", b"0.6", 1), [2, 3]),
        (lambda content: content[:200], [1, 2]),
        (lambda content: b"[1]\n" + content[:100], [1]),
        (lambda content: content[:20] + b"\xf2" + content[20:], [2, 3]),
        (lambda content: b"\0" * len(content), []),
        (lambda content: None, []),
    ],
)
def test_epochs_that_are_lost_are_told(damage, left, tmp_path, capsys):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    content = damage(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    write(tmp_path, [4], resumed_epoch=3)
    assert [record["epoch"] for record in read_lines(path)] == [*left, 4]
    told = f"{path} was damaged or removed: {3 - len(left)} of 3 epochs are missing"
    beside = tmp_path / "metrics.jsonl.damaged"
    assert beside.exists() == (content is not None)
    kept = "" if content is None else f"; what is left is in {beside.name}"
    assert capsys.readouterr().err.splitlines()[-1] == told + kept
    assert content is None or beside.read_bytes() == content


def test_what_is_whole_is_not_told(tmp_path, capsys):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [3], resumed_epoch=2)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "loss": 1.0}\n{"epoch": 2, "loss": 0.5}\n')  # an older version
    write(tmp_path, [3], resumed_epoch=2)
    assert [record["epoch"] for record in read_lines(path)] == [1, 2, 3]
    assert capsys.readouterr().err == ""
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "tensorboard"}


def test_events_can_be_found(tmp_path):
    write(tmp_path, [1, 2])
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    content = file.read_bytes()
    assert content.count(b"loss") == content.count(b"accuracy") == 2
