"""A run that is told to stop, at any moment, goes on to the very result of an undisturbed one."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_run
from small_run import records

from bbo import files
from bbo.pipeline.experiment import read_result, run_experiment
from bbo.pipeline.finished import read_network
from bbo.pipeline.loop import is_due, train_network
from bbo.pipeline.progress import Progress
from bbo.pipeline.run import accuracy_on, set_up
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.workdir import is_finished
from bbo.training import preemption
from bbo.types import Preempted, UsageError

SETTINGS = small_run.SETTINGS | {"checkpoint_every": 50}
SMALL = override(ExperimentConfig(), **SETTINGS)
"""An epoch is five steps, one batch of validation and the end of it: seven counts."""


def check_equal(folder, expected):
    assert records(folder) == records(expected)
    assert (folder / "curve.csv").read_bytes() == (expected / "curve.csv").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_experiment(SMALL, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([1, 4], id="within an epoch"),
        pytest.param([5, 6, 7], id="after its steps, in its validation, at its end"),
        pytest.param([13, 21, 22, 30], id="later, at the end of training, while pruning"),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_result(stops, undisturbed, tmp_path):
    for before, stop in zip([0, *stops], stops, strict=False):
        asked = []
        with pytest.raises(Preempted):
            run_experiment(SMALL, tmp_path, lambda n: asked.append(n) or n == stop)  # noqa: B023
        # It has gone on where it had stopped: no work is done twice.
        assert (asked[0], asked[-1]) == (before + 1, stop)
    assert not is_finished(tmp_path)
    run_experiment(SMALL, tmp_path)
    check_equal(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_known_part_of_the_curve_is_not_computed_again(undisturbed, tmp_path):
    with pytest.raises(Preempted):
        run_experiment(SMALL, tmp_path / "stopped", lambda n: n == 35)
    path = tmp_path / "stopped" / "curve.jsonl"
    known = files.read_lines(path)
    assert 0 < len(known) < 4
    with path.open("a") as lines:
        lines.write('{"cut sho')
    whole, rest = [], []
    run_experiment(SMALL, tmp_path / "whole", lambda n: bool(whole.append(n)))
    run_experiment(SMALL, tmp_path / "stopped", lambda n: bool(rest.append(n)))
    # Each row takes two polls for validation and test, each with batch_norm five more.
    polls = sum(7 if row["recovery"] == "batch_norm" else 2 for row in known)
    assert len(rest) == len(whole) - 21 - polls
    check_equal(tmp_path / "stopped", undisturbed)


@pytest.mark.slow
def test_sigterm_saves_and_exits_75(undisturbed, tmp_path):
    settings = SETTINGS | {"sparsities": "0,0.5", "granularity": "filter", "epochs": 200}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.run", "--preset=clean", f"--workdir={workdir}"]
    command += ["--dataset=digits", "--model=small_cnn", *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not records(workdir) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.endswith("told to stop; saved, the same command goes on from there\n")
    assert "Traceback" not in err
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved >= 7 and 1 <= len(records(workdir)) < 200


def test_checkpoints_are_due_at_the_ends_of_epochs():
    def due(done, collected=()):
        return is_due(4, 10, Progress(None, None, done, list(collected), 0.0))

    assert [done for done in range(1, 11) if due(done)] == [1, 4, 8, 10]
    assert not due(4, [{"loss": 1.0}])


@pytest.mark.slow
def test_the_selected_network_is_read_from_its_folder(undisturbed, tmp_path):
    found = read_network(undisturbed)
    _, curve, summary = read_result(undisturbed)
    assert found.epoch == summary["selected_epoch"]
    run = set_up(SMALL)
    poll = preemption.poller(preemption.never)
    accuracy = accuracy_on(run, "test", found.variables, poll)["test_top1"]
    assert accuracy == curve.query("sparsity == 0 and recovery == 'none'")["test_top1"].item()
    copied = shutil.copytree(undisturbed, tmp_path / "copied")
    trained, _ = train_network(run, copied)  # nothing is left to train
    assert jax.tree.structure(found) == jax.tree.structure(trained)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(trained), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_a_network_is_read_of_a_finished_run_only(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            UsageError, match=r"holds no finished run \(no summary.json\); the comm"
        ):
            read_network(folder)
    (tmp_path / "summary.json").touch()
    with pytest.raises(UsageError, match="no checkpoint"):
        read_network(tmp_path)
