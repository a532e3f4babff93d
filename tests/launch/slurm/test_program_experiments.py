"""Whole experiments on a cluster of two nodes: what SLURM does to a run leaves no trace in it."""

import json
import os
import signal
import subprocess

import pytest
import slurm_cluster
from slurm_cluster import ROOT, Sweep, wait_for

pytestmark = pytest.mark.slow

TINY = {"width": 0.25, "batch_size": 256, "granularity": "filter", "sparsities": [0, 0.5]}
SHORT = TINY | {"epochs": 3}
LONG = TINY | {"epochs": 150, "noise": "dropout", "rate": 0.1}
"""Long enough to be interrupted: a quarter of a minute."""
LONG_ON_TWO = LONG | {"epochs": 40}
"""As long, for two processes that talk at every step."""
JAX = {
    "JAX_PLATFORMS": "cpu",
    # The tests' own: most of the time of short runs is compilation.
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
PATIENCE = 180


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.started() as running:
        running.environment.update(JAX)
        running.environment.pop("XLA_FLAGS", None)  # runs see the machine's one device
        yield running


@pytest.fixture
def new_sweep(cluster, tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        return Sweep(cluster, tmp_path / name, "experiments.run")

    yield make
    cluster.clear()


APART = ("seconds", "digest")
"""What two runs do not have in common: times, and the digest of a line with them."""


def records(workdir):
    """What a run found out, without how long it took."""
    metrics = [json.loads(line) for line in lines(workdir)]
    summary = json.loads((workdir / "summary.json").read_text())
    return (
        (workdir / "curve.csv").read_bytes(),
        [{name: value for name, value in line.items() if name not in APART} for line in metrics],
        {name: value for name, value in summary.items() if not name.startswith("seconds_")},
    )


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def free_port():
    return slurm_cluster.consecutive_ports(1)[0]


def preempt(sweep):
    """Has an urgent job take the nodes of run 0 during training; gives its metrics until then."""
    wait_for(lambda: len(lines(sweep.workdir(0))) > 2, PATIENCE)
    urgent = sweep.cluster.urgent_job()
    wait_for(lambda: sweep.cluster.job(sweep.task(0))["Restarts"] == "1", 60)
    sweep.cluster.wait_for_state(urgent, "COMPLETED")
    before = lines(sweep.workdir(0))
    assert len(before) > 2 and not sweep.done(0)
    sweep.cluster.wait_for_requeue(sweep.task(0))
    return before


def test_an_array_of_runs_gives_what_the_local_launcher_gives(new_sweep):
    runs = [
        SHORT | {"noise": noise, "rate": 0.1, "seed": seed}
        for noise, seed in (("batch_bridgeout", 0), ("dropout", 0), ("dropout", 1))
    ]
    on_slurm, here = new_sweep("on_slurm"), new_sweep("here")
    on_slurm.submit(runs, before=["--parallel=2"])
    for index in range(len(runs)):
        on_slurm.wait_until_done(index, PATIENCE)
    here.launch("local", runs, "--parallel=2")
    for index in range(len(runs)):
        assert records(on_slurm.workdir(index)) == records(here.workdir(index))


def test_a_run_that_was_preempted_ends_as_if_it_had_not_been(new_sweep):
    preempted, undisturbed = new_sweep("preempted"), new_sweep("undisturbed")
    preempted.submit([LONG])
    before = preempt(preempted)
    undisturbed.launch("local", [LONG])
    preempted.wait_until_done(0, PATIENCE)
    after = lines(preempted.workdir(0))
    assert after[: len(before)] == before  # with the seconds: nothing was done again
    assert records(preempted.workdir(0)) == records(undisturbed.workdir(0))


def test_a_run_on_two_nodes(new_sweep):
    preempted, undisturbed = new_sweep("preempted"), new_sweep("undisturbed")
    for sweep in (preempted, undisturbed):
        # The names of the nodes are not those of machines.
        address = f"localhost:{free_port()}"
        sweep.submit([LONG_ON_TWO], "-N2", "--ntasks-per-node=1", JAX_COORDINATOR_ADDRESS=address)
        if sweep is preempted:
            preempt(sweep)
    for sweep in (preempted, undisturbed):
        sweep.wait_until_done(0, PATIENCE)
    environment = json.loads((preempted.workdir(0) / "config.json").read_text())["environments"]
    assert [started["num_processes"] for started in environment] == [2]
    assert records(preempted.workdir(0)) == records(undisturbed.workdir(0))


def test_when_a_process_of_a_run_on_two_nodes_is_killed_the_job_fails(new_sweep):
    sweep = new_sweep("killed")
    address = f"localhost:{free_port()}"
    environment = {"JAX_COORDINATOR_ADDRESS": address, "SLURM_WAIT": "3"}
    sweep.submit([LONG_ON_TWO], "-N2", "--ntasks-per-node=1", **environment)
    wait_for(lambda: len(lines(sweep.workdir(0))) > 2, PATIENCE)
    os.kill(process_of(sweep.workdir(0), rank=1), signal.SIGKILL)
    failed = sweep.cluster.wait_for_state(sweep.task(0), "FAILED", 60)
    assert failed["Restarts"] == "0" and not sweep.done(0)


def process_of(workdir, rank):
    """The id of a process of a run."""
    found = subprocess.run(
        ["pgrep", "-f", f"experiments.run --workdir={workdir}"], capture_output=True, text=True
    )
    for pid in map(int, found.stdout.split()):
        with open(f"/proc/{pid}/environ") as file:
            if f"SLURM_PROCID={rank}" in file.read().split("\0"):
                return pid
    raise AssertionError(f"no process {rank} of {workdir}")
