"""Metrics: one record per epoch in JSON lines, whatever was cut short, and TensorBoard events."""

import json

from bbo.files import read_lines
from bbo.pipeline.epoch_log import metrics_writer


def write(folder, epochs, *, resumed_epoch=0, loss=1.0):
    with metrics_writer(folder, resumed_epoch=resumed_epoch) as write_one:
        for epoch in epochs:
            write_one(epoch, {"loss": loss / epoch, "accuracy": 0.5})


def test_one_line_per_epoch(tmp_path):
    write(tmp_path, [1, 2])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 1, "loss": 1.0, "accuracy": 0.5},
        {"epoch": 2, "loss": 0.5, "accuracy": 0.5},
    ]
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


def test_events_can_be_found(tmp_path):
    write(tmp_path, [1, 2])
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    content = file.read_bytes()
    assert content.count(b"loss") == content.count(b"accuracy") == 2
