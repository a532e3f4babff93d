"""Pods by name, and a step that is really compiled for TPUs that are not there."""

import csv
import os
import pathlib
import subprocess
import sys

import pytest

from bbo.types import UsageError
from experiments.scale import topology
from experiments.scale.roofline import DATA_SHEETS


def test_a_pod_is_a_chip_and_a_grid():
    found = topology.parse("v5p:2x2x4")
    assert found == ("v5p", (2, 2, 4)) and (found.size, found.name) == (16, "v5p:2x2x4")
    assert topology.parse("v5e:1x1").size == 1


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:", "v5e:4", "v5e:4x4x4", "v5p:4x4", "v5e:0x4", "v4:2x2", "v5e:4x4 "]
)
def test_other_names_are_refused(name):
    with pytest.raises(UsageError, match=f"topology has '{name}'; give a chip .* v5p:2x2x1"):
        topology.parse(name)


def test_they_come_by_chip_and_size_each_once(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: name == "libtpu")
    names = ["v6e:2x2", "v5e:16x16", "v5e:2x4", "v5e:4x4", "v5e:2x4"]
    found = [one.name for one in topology.check(names)]
    assert found == ["v5e:2x4", "v5e:4x4", "v5e:16x16", "v6e:2x2"] and topology.check([]) == []


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs libtpu: pip install 'batch-bridgeout\[tpu\]'"):
        topology.check(["v5e:2x2"])


@pytest.mark.parametrize(("pod", "all_reduce"), [("v5e:16x16", 51.2e12), ("v6e:16x16", 102.4e12)])
def test_rings_of_a_whole_pod_have_the_published_bandwidth_of_all_reduce(pod, all_reduce):
    whole = topology.parse(pod)
    link = DATA_SHEETS[f"tpu_{whole.chip}"]["bfloat16"].link
    assert whole.size * whole.rings * link == all_reduce


def test_rings_are_two_where_the_ends_of_an_axis_are_joined():
    rings = {name: topology.parse(name).rings for name in ("v5e:2x2", "v5e:4x16", "v5p:2x4x8")}
    assert rings == {"v5e:2x2": 2, "v5e:4x16": 3, "v5p:2x4x8": 5}


def test_it_has_to_come_before_jax():
    with pytest.raises(UsageError, match="before jax is loaded"):
        topology.prepare()


def scale(*argv, home):
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "experiments.scale", *argv],
        env=kept | {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=pathlib.Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_a_step_is_compiled_for_pods(tmp_path):
    pytest.importorskip("libtpu")
    small = ("--model=small_cnn", "--dataset=digits", "--images=1437", "--widths=0.25")
    done = scale(
        *("--topology=v5e:2x2,v5e:1x1", *small, "--batch_sizes=64", "--scaling=weak"),
        *("--noise=none,batch_bridgeout", "--dtype=bfloat16", f"--out={tmp_path}"),
        home=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of the links 1e+11 bytes/s" in done.stdout and "libtpu" in done.stdout
    with (tmp_path / "scale.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["noise"], row["topology"], row["batch_size"]) for row in rows] == [
        (noise, pod, batch)
        for noise in ("none", "batch_bridgeout")
        for pod, batch in (("v5e:1x1", "64"), ("v5e:2x2", "256"))
    ]
    for row in rows:
        many = int(row["devices"]) > 1
        # Of 4370 parameters those of 4 norms of 48 channels are summed in float32.
        assert int(row["all_reduce_bytes"]) == (2 * (4370 + 96) + 4 * 3 * 48 + 8 if many else 0)
        assert row["unexplained_bytes"] == "0" and row["collectives"] == "all-reduce" * many
        # Twice the multiply-adds, but for padding and the gradient of the images.
        assert 0.75 < float(row["flops"]) / (2 * float(row["macs"])) < 1
        state = 4 * (2 * 4370 + 2 * 48 + 2)
        images = 1437 * (64 + 4)
        assert state + images < int(row["argument_bytes"]) < 6 * (state + images)
        # All state is read and written; the images are neither, but for those of the batch.
        assert 2 * state < float(row["bytes_accessed"]) < 2e6
        assert 1e4 < int(row["estimated_cycles"]) < 1e6
        assert 0 < float(row["memory_share"]) < 1e-3


@pytest.mark.slow
def test_what_does_not_fit_is_told_and_a_grid_that_is_none_refused(tmp_path):
    pytest.importorskip("libtpu")
    small = ("--model=small_cnn", "--dataset=digits", "--images=1437", "--noise=none")
    large = ("--batch_sizes=64,2097152", "--scaling=strong")
    done = scale("--topology=v5e:1x1", *small, *large, f"--out={tmp_path}/a", home=tmp_path)
    assert done.returncode == 0, done.stderr
    told = "small_cnn, none, batch of 2097152 on v5e:1x1: RESOURCE_EXHAUSTED: "
    assert told in done.stdout and "| small_cnn | none | v5e:1x1 | 64 |" in done.stdout
    done = scale("--topology=v5e:3x3", "--batch_sizes=9", f"--out={tmp_path}/b", home=tmp_path)
    assert done.returncode == 2 and done.stderr.count("error: topology has 'v5e:3x3', but") == 1
    assert not (tmp_path / "b").exists()
