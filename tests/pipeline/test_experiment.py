"""The whole path on digits: the files it leaves, its programs, and resuming."""

import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest
from small_run import SMALL, records

from bbo import files
from bbo.pipeline import compiled, experiment, loop, measurements, stages
from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.run import Trained
from bbo.pruning import pruner
from bbo.settings import workdir as workdirs
from bbo.types import UsageError

pytestmark = pytest.mark.slow
FILES = set(
    ".lock config.json metrics.jsonl tensorboard checkpoints curve.csv curve.png "
    "summary.json SHA256SUMS".split()
)
COLUMNS = (
    "method state criterion granularity scope meaning recovery sparsity achieved_sparsity "
    "units_kept params_kept macs_kept macs_compact validation_loss validation_top1 validation_top5 "
    "validation_ece validation_class_top1 test_loss test_top1 test_top5 test_ece test_class_top1 "
    "error"
).split()


@pytest.fixture
def networks(monkeypatch):
    """The networks that runs go on to prune, as they come."""
    seen, prune = [], stages.prune_network

    def spy(run, network, *rest):
        seen.append(jax.tree.map(np.asarray, network))
        return prune(run, network, *rest)

    monkeypatch.setattr(stages, "prune_network", spy)
    return seen


def check_identical(first, second):
    for mine, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Finished(NamedTuple):
    """An undisturbed run."""

    folder: pathlib.Path
    network: Trained
    traces: dict[str, int]
    """How often the programs of training, evaluation and pruning were traced."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    traces, seen, prune = {"train_step": 0, "batch_sums": 0, "masks": 0}, [], stages.prune_network
    with pytest.MonkeyPatch.context() as patch:

        def count(module, name, original):
            def counted(*args, **options):
                traces[name] += 1
                return original(*args, **options)

            patch.setattr(module, name, counted)

        count(compiled, "train_step", compiled.train_step)
        count(measurements, "batch_sums", measurements.batch_sums)
        count(pruner, "masks", pruner.masks)
        patch.setattr(
            stages, "prune_network", lambda *args: (seen.append(args[1]), prune(*args))[1]
        )
        run_experiment(SMALL, folder)
    return Finished(folder, jax.tree.map(np.asarray, seen[0]), traces)


def test_each_program_is_traced_once(finished):
    # The splits validation and test have batches of different sizes.
    traces = dict(finished.traces)
    # One program prunes to every sparsity, and for all runs of a process: an earlier one may have
    # traced it.
    assert traces.pop("masks") <= 1
    assert traces == {"train_step": 1, "batch_sums": 2}


def test_a_run_leaves_its_files_and_no_others(finished):
    folder, network, _ = finished
    assert {path.name for path in folder.iterdir()} == FILES
    record = json.loads((folder / "config.json").read_text())
    assert record["config"]["train"]["batch_size"] == 256
    assert record["environments"][-1]["num_devices"] == 8
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_params"] == sum(
        x.size for x in jax.tree.leaves(network.variables["params"])
    )
    assert summary["macs"] == 96_928
    assert [row["epoch"] for row in records(folder)] == [1, 2, 3]


def test_a_finished_run_is_only_read(finished, monkeypatch):
    folder = finished.folder
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(experiment, "set_up", None)
    result = run_experiment(SMALL, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert result.workdir == folder and result.summary["selected_epoch"] in (1, 2, 3)
    assert set(result.curve.columns) == set(COLUMNS) and len(result.curve.columns) == len(COLUMNS)
    curve = result.curve
    assert curve["sparsity"].tolist() == [0.0, 0.0, 0.5, 0.5]
    assert curve["recovery"].tolist() == ["none", "batch_norm"] * 2
    assert curve["units_kept"].tolist() == [1.0, 1.0, 0.5, 0.5]


def test_the_best_epoch_is_pruned_and_the_later_of_equals(finished):
    folder, network, _ = finished
    seen = [(row["validation_top1"], row["epoch"]) for row in records(folder)]
    accuracy, epoch = max(seen)
    assert int(network.epoch) == epoch
    assert float(network.accuracy) == np.float32(accuracy)
    result = run_experiment(SMALL, folder)
    assert result.summary["selected_epoch"] == epoch
    assert result.curve["validation_top1"][0] == accuracy


class Interruption(Exception):
    """Stands for a machine that goes away."""


def interrupt_after(monkeypatch, module, name, calls):
    """Lets ``module.name`` do its work this many times, then raises."""
    original, left = getattr(module, name), [calls]

    def interrupted(*args, **options):
        result = original(*args, **options)
        left[0] -= 1
        if left[0] == 0:
            raise Interruption
        return result

    monkeypatch.setattr(module, name, interrupted)


@pytest.mark.parametrize(
    ("name", "calls", "recorded"),
    # Evaluation comes before an epoch is recorded, selection between its record and checkpoint.
    [("accuracy_on", 2, [1]), ("_select", 2, [1, 2]), ("_select", 3, [1, 2, 3])],
)
def test_an_interrupted_run_goes_on_to_the_same_result(
    finished, tmp_path, networks, name, calls, recorded
):
    folder, network, _ = finished
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, loop, name, calls)
        with pytest.raises(Interruption):
            run_experiment(SMALL, tmp_path)
    assert [row["epoch"] for row in records(tmp_path)] == recorded
    assert not (tmp_path / "summary.json").exists() and not networks
    run_experiment(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    check_identical(networks, [network])
    assert records(tmp_path) == records(folder)
    assert (tmp_path / "curve.csv").read_bytes() == (folder / "curve.csv").read_bytes()


def test_a_run_interrupted_while_pruning_is_not_trained_again(finished, tmp_path, monkeypatch):
    folder = finished.folder
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, stages, "prune_network", 1)
        with pytest.raises(Interruption):
            run_experiment(SMALL, tmp_path)
    assert not (tmp_path / "curve.csv").exists()
    monkeypatch.setattr(loop, "training_batches", None)
    run_experiment(SMALL, tmp_path)
    assert records(tmp_path) == records(folder)
    assert (tmp_path / "curve.csv").read_bytes() == (folder / "curve.csv").read_bytes()


def test_a_run_interrupted_before_its_last_file_has_its_curve(finished, tmp_path, monkeypatch):
    write = files.write_text

    def interrupted(path, text):
        if path.name == "summary.json":
            raise Interruption
        write(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_text", interrupted)
        with pytest.raises(Interruption):
            run_experiment(SMALL, tmp_path)
    assert len(files.read_lines(tmp_path / "curve.jsonl")) == 4
    monkeypatch.setattr(measurements, "batch_sums", None)  # nothing is measured again
    run_experiment(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert (tmp_path / "curve.csv").read_bytes() == (finished.folder / "curve.csv").read_bytes()


def test_a_refused_process_leaves_the_record_of_another_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "LOCK_SECONDS", 1)
    with workdirs.held(tmp_path), pytest.raises(UsageError, match="another process works in"):
        run_experiment(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
