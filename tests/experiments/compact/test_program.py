"""The program that removes filters for real, as a user runs it."""

import csv
import json

import jax
import numpy as np
import pytest
from mistakes import check_told
from pytest import approx

from bbo.compaction import export
from bbo.models.create import create_model, kept_channels
from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.shrinking import shrink as shrinking
from bbo.settings.config import override
from bbo.settings.sections import ModelConfig
from experiments.command_line import program as cli
from experiments.compact.program import FLAGS, importlib, main
from experiments.presets import digits


def run_program(*argv):
    return cli.run_program(main, FLAGS, ["compact", *map(str, argv)])


def run_of(folder, **settings):
    config = override(digits, sparsities=(0.0,), granularity=("filter",), **settings)
    run_experiment(config, folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("finished") / "run", epochs=3, width=0.25)


# Of 8, 8, 16, 16 channels, two at 8x8 pixels and two at 4x4, and a dense layer; then of half.
DENSE = 9 * 64 * (1 * 8 + 8 * 8) + 9 * 16 * (8 * 16 + 16 * 16) + 16 * 10
COMPACT = 9 * 64 * (1 * 4 + 4 * 4) + 9 * 16 * (4 * 8 + 8 * 8) + 8 * 10


@pytest.mark.slow
def test_what_it_leaves(finished, tmp_path, capsys):
    out = tmp_path / "small"
    options = ("--sparsity=0.5", "--seconds=0", "--batch_sizes=1,4", "--fine_tune_epochs=1")
    assert run_program(f"--workdir={finished}", f"--out={out}", *options) == 0
    printed = capsys.readouterr().out
    assert (
        f"Folder: {out}" in printed
        and "| MACs | 96 928 | 25 424 | 26.2 | 3.81 | - | - |" in printed
    )
    assert "\nFilters that cannot be removed: none\n" in printed and "Time in jax" not in printed
    assert {path.name for path in out.iterdir()} == {
        *("network.json", "network.npz", "network.onnx", "network.stablehlo", "dense.onnx"),
        *("cost.csv", "cost.png", "latency.csv", "summary.json", "fine_tune_0"),
    }
    assert (DENSE, COMPACT) == (96928, 25424)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["test_top1"]) == {"dense", "pruned", "compact"}
    assert summary["cannot_be_removed"] == [] and set(summary["left"]) == {"macs", "params"}
    assert summary["left"]["macs"] == approx(COMPACT / DENSE, rel=1e-12)
    assert {file["path"] for file in summary["files"]} == {
        *("network.onnx", "network.stablehlo", "dense.onnx")
    }
    assert all(file["difference"] <= 1e-5 for file in summary["files"])
    with (out / "cost.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    left = {row["cost"]: float(row["left"]) for row in rows}
    for row in rows:
        over = float(row["left"]) / left["MACs"] if row["cost"].startswith("ms ") else None
        assert row["over_macs"] == "" if over is None else float(row["over_macs"]) == approx(over)
    assert left["MACs"] == summary["left"]["macs"]
    assert {"ms in jax, batch 4", "ms in onnxruntime, batch 1", "bytes of ONNX"} <= left.keys()
    spec, variables = export.load_network(out)
    assert spec["kept_channels"] == {"conv1": 4, "conv2": 4, "conv3": 8, "conv4": 8}
    model = create_model(ModelConfig(**spec["model"]), num_classes=10, kept=spec["kept_channels"])
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    logits = jax.jit(model.apply)(variables, images)
    with (out / "network.stablehlo").open("rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    np.testing.assert_allclose(exported.call(images), logits, rtol=1e-4, atol=1e-5)


def share_of_channels(dense, network, images, target):
    """In the place of a clock, which a busy machine makes say anything."""
    return kept_channels(network.variables["params"])["conv4"] / 64


@pytest.mark.slow
def test_by_time_and_with_filters_that_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shrinking, "share_of_time", share_of_channels)
    finished, out = run_of(tmp_path / "run", epochs=1), tmp_path / "small"
    options = ("--latency=0.8", "--latency_batch_size=32", "--prune_on=conv[234]")
    fine_tuned = ("--fine_tune_epochs=1", "--iterations=2")
    measured = ("--seconds=0.2", "--batch_sizes=32", "--format=onnx")
    argv = (f"--workdir={finished}", f"--out={out}", *options, *fine_tuned, *measured)
    assert run_program(*argv) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    share = summary["left"]["latency"]
    assert 0.05 < share <= 0.8 and summary["sparsity"] > 0
    assert f"Time in jax when it was chosen: {share:.1%} of" in printed
    assert summary["asked"]["latency"] == 0.8 and summary["asked"]["latency_batch_size"] == 32
    why = "prune_on does not match the kernel"
    assert f"Filters that cannot be removed:\n  {why}: conv1/kernel (32)\n" in printed
    assert summary["cannot_be_removed"] == [
        {"name": "conv1/kernel", "channels": 32, "of": 32, "reason": why}
    ]
    # A second time it takes what it has chosen.
    assert run_program(*argv) == 0
    again = json.loads((out / "summary.json").read_text())
    assert {**again, "files": None} == {**summary, "files": None}


WRONG = {
    (): "workdir is missing; name a folder for a finished run",
    ("--workdir=W",): "out is missing; name a folder for the smaller network",
    ("--workdir=W", "--out=O"): "give one of sparsity, macs, params, latency",
    ("--workdir=W", "--out=O", "--sparsity=1"): "sparsity is 1.0; it must be in [0, 1)",
    ("--workdir=W", "--out=O", "--macs=0"): "macs is 0.0; it must be in (0, 1]",
    ("--workdir=W", "--out=O", "--latency=0"): "latency is 0.0; it must be in (0, 1]",
    ("--workdir=W", "--out=O", "--latency=1", "--macs=1"): "give one of sparsity, macs, params",
    (
        "--workdir=W",
        "--out=O",
        "--macs=1",
        "--sparsity=0",
    ): "give one of sparsity, macs, params, latency",
    ("--workdir=W", "--out=O", "--macs=1", "--batch_sizes=0"): "batch_sizes is ['0']; give some",
    ("--workdir=W", "--out=O", "--params=1", "--rewind"): "rewind trains anew; give fine_tune",
    ("--workdir=W", "--out=O", "--macs=1"): "W holds no finished run: not started; name one",
}


def test_what_is_not_installed_is_told_before_work_begins(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    gone = lambda name: None if name == "jax2onnx" else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    assert run_program(f"--workdir={tmp_path}", f"--out={tmp_path}/out", "--macs=0.5") == 2
    told = "jax2onnx not installed: pip install 'batch-bridgeout[export]' && pip install --no-deps "
    assert f"{told}'jax2onnx>=0.17'; or leave a format out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_a_mistake_ends_in_one_line_and_writes_nothing(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_program(*argv) == 2
    check_told(capsys, WRONG[argv])
    assert not list(tmp_path.iterdir())
