"""The result does not depend on how many processes and devices there are."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from processes import finish, start

from bbo import files
from bbo.settings import workdir as workdirs
from bbo.training import devices
from bbo.training.devices import agreed, data_mesh, is_first_process, replicate, shard_batch
from bbo.types import UsageError

FIVE_STEPS = """
import sys
import jax, numpy as np
from bbo.pipeline import run as runs
from bbo.settings import ExperimentConfig, override
from bbo.training import devices as sharding
if sys.argv[2] == "many":
    sharding.join_processes()
config = override(ExperimentConfig(), epochs=2, batch_size=64, width=0.25, weight_decay=5e-3)
for noise in sys.argv[3:]:
    run = runs.set_up(override(config, noise=noise))
    state, losses = run.state, []
    for batch, _ in zip(runs.training_batches(run, 1), range(5)):
        state, metrics = run.programs.train(state, run.images["train"], batch)
        losses.append(float(metrics["loss"]))
    if sharding.is_first_process():
        leaves = jax.tree.leaves((state.params, state.batch_stats))
        np.savez(f"{sys.argv[1]}/{noise}.npz", np.asarray(losses), *map(np.asarray, leaves))
print(jax.process_count(), jax.device_count(), jax.local_device_count())
"""


def five_steps(folder, noises, *, count, devices):
    """By noise: losses, then parameters and BatchNorm statistics, after five steps."""
    folder = folder / f"{count}x{devices}"
    folder.mkdir()
    many = "many" if count > 1 else "one"
    arguments = ["-c", FIVE_STEPS, str(folder), many, *noises]
    for _ in range(3):
        try:
            statuses, outputs = finish(start(arguments, count=count, devices=devices), timeout=90)
            break
        except subprocess.TimeoutExpired:
            # XLA's messages between CPU devices, several to a process, now and then never arrive.
            continue
    else:
        pytest.fail("hangs each time")
    assert statuses == [0] * count, outputs
    assert all(f"{count} {count * devices} {devices}\n" in output for output in outputs)
    found = {}
    for noise in noises:
        with np.load(folder / f"{noise}.npz") as arrays:
            losses, *leaves = arrays.values()
        found[noise] = losses, leaves
    return found


@pytest.mark.slow
def test_two_processes_train_as_one_device(tmp_path):
    # What several devices of one process give is tested in test_step.py.
    noises = ("batch_bridgeout", "dropout")
    alone = five_steps(tmp_path, noises, count=1, devices=1)
    together = five_steps(tmp_path, noises, count=2, devices=2)
    for noise, (losses, leaves) in alone.items():
        spread_losses, spread = together[noise]
        assert len(set(losses)) == 5
        np.testing.assert_allclose(spread_losses, losses, rtol=1e-6)
        for one, many in zip(leaves, spread, strict=True):
            np.testing.assert_allclose(many, one, rtol=0, atol=1e-6)


RUN = """
import os, pathlib, signal, sys, time
import jax
from bbo import pipeline
from bbo.pipeline import epoch_log
from bbo.settings import ExperimentConfig, override
from bbo.training import devices as sharding, preemption
from experiments.command_line import program as cli

config = override(
    ExperimentConfig(), width=0.25, batch_size=64, epochs=4, granularity=("filter",),
    sparsities=(0.0, 0.5), checkpoint_every=50,
    learning_rate=1e-3,  # a large one makes rounding grow from step to step
)
workdir, what = pathlib.Path(sys.argv[1]), sys.argv[2]
many = os.environ["SLURM_NTASKS"] != "1"
if many:
    sharding.join_processes()
if what == "fail alone" and sharding.is_first_process():
    def fail(*_, **__):
        raise OSError(28, "No space left on device", "metrics.jsonl")
    epoch_log.metrics_writer = fail

def main(_):
    with preemption.watch(distributed=many) as should_stop, cli.ends_at_once(many):
        if what == "told early" and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "told early":
            time.sleep(3)  # jax looks about once a second
        last = what.removeprefix("stop at ")
        stop = should_stop if last == what else lambda count: count == int(last)
        pipeline.run_experiment(config, workdir, stop)

from absl import flags
cli.leave(cli.run_program(main, flags.FlagValues(), ["run"]))
"""


def run(workdir, what="", *, count):
    return finish(start(["-c", RUN, str(workdir), what], count=count, devices=1))


def records(folder):
    return files.read_lines(folder / "metrics.jsonl")


@pytest.mark.slow
def test_a_preempted_run_goes_on_with_another_number_of_processes(tmp_path):
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    statuses, outputs = run(stayed, count=1)
    assert statuses == [0], outputs

    # An epoch is twenty steps, a batch of validation and its end.
    statuses, outputs = run(moved, "stop at 33", count=1)
    assert statuses == [75], outputs
    assert [record["epoch"] for record in records(moved)] == [1]
    # One is told before it has asked for the first time: all stop.
    statuses, outputs = run(moved, "told early", count=2)
    assert statuses == [75, 75], outputs
    assert "going on after 1 epochs and 11 of 20 steps" in outputs[0]
    assert [record["epoch"] for record in records(moved)] == [1]
    statuses, outputs = run(moved, "stop at 48", count=2)
    assert statuses == [75, 75], outputs
    assert [record["epoch"] for record in records(moved)] == [1, 2]
    assert not workdirs.is_finished(moved)
    statuses, outputs = run(moved, count=1)
    assert statuses == [0], outputs

    assert [record["epoch"] for record in records(moved)] == [1, 2, 3, 4]
    np.testing.assert_allclose(
        [record["train_loss"] for record in records(moved)],
        [record["train_loss"] for record in records(stayed)],
        rtol=1e-5,
    )
    held = json.loads((moved / "config.json").read_text())
    counts = [(e["num_processes"], e["num_devices"]) for e in held["environments"]]
    assert counts == [(1, 1), (2, 2), (1, 1)]
    assert run(moved, count=2)[0] == [0, 0]  # only read


@pytest.mark.slow
def test_all_processes_are_refused_together(tmp_path):
    """The first one alone asks, and whom it refused would wait for it for minutes."""
    started = time.monotonic()
    with workdirs.held(tmp_path):
        statuses, outputs = run(tmp_path, count=2)
    assert statuses == [2, 2], outputs
    assert f"error: another process works in {tmp_path}; wait for it, or name" in outputs[0]
    assert f"error: the first process may not work in {tmp_path} and says why\n" in outputs[1]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert time.monotonic() - started < 120


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_run_soon(tmp_path):
    started = time.monotonic()
    statuses, outputs = run(tmp_path, "fail alone", count=2)
    assert statuses[0] == 1 and "takes no more" in outputs[0]
    assert statuses[1] != 0  # jax ends it, or else srun would
    assert time.monotonic() - started < 120


def train(workdir, *, count, **settings):
    given = {"batch_size": 64, "width": 0.25, **settings}
    arguments = [f"--workdir={workdir}", *(f"--{name}={value}" for name, value in given.items())]
    command = ["-m", "experiments.run", "--distributed", *arguments]
    return finish(start(command, count=count, devices=1))


@pytest.mark.slow
def test_pmap_is_refused_over_processes(tmp_path):
    statuses, outputs = train(tmp_path, count=2, parallel="pmap")
    assert statuses == [2, 2]
    assert all("error: pmap works within one process; use parallel=jit" in out for out in outputs)
    assert not any(tmp_path.iterdir())


def test_distributed_without_others_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.run", "--distributed"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: distributed: this process was not started as one of many")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_one_process_agrees_with_itself():
    assert agreed(True) == 1 and agreed(7) == 7
    assert is_first_process()


def test_batches_are_split_and_the_rest_is_everywhere():
    mesh = data_mesh()
    rows = np.arange(16).reshape(8, 2)
    split = shard_batch({"x": rows}, mesh)["x"]
    assert [shard.data.tolist() for shard in split.addressable_shards] == [
        [r.tolist()] for r in rows
    ]
    copied = replicate((rows, jax.random.key(0)), mesh)
    assert len(copied[0].addressable_shards) == 8
    assert all((shard.data == rows).all() for shard in copied[0].addressable_shards)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend")])
def test_a_platform_without_a_device(monkeypatch, error):
    devices.check_platform()

    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UsageError, match="^JAX_PLATFORMS is cuda, and jax finds no such device"):
        devices.check_platform()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(type(error)):
        devices.check_platform()
