"""launch.slurm on a real cluster of two nodes: every way in which a run can be interrupted."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import slurm_cluster
from slurm_cluster import Sweep, wait_for

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[3]
TESTS = ROOT / "tests/helpers"
LONG = {"steps": 1000, "pause": 0.1}
"""A run that ends only because it is at full speed after it was interrupted."""


@pytest.fixture(scope="module")
def cluster():
    with slurm_cluster.started() as running:
        yield running


@pytest.fixture
def sweep(cluster, tmp_path):
    yield Sweep(cluster, tmp_path, "toy_run")
    cluster.clear()


def starts(sweep, index, process=0):
    """What a process of a run saw at each of its starts."""
    path = sweep.workdir(index) / f"starts.{process}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until_ready(sweep, index, process=0):
    """Until a run listens to signals."""
    wait_for((sweep.workdir(index) / f"ready.{process}").exists, 60)


def test_runs_go_as_many_at_a_time_as_asked(sweep):
    runs = [{"steps": steps, "pause": 0.2} for steps in range(3, 8)]
    said = sweep.submit(runs, before=["--parallel=2"])
    assert "5 runs: 0 done, 5 to submit" in said and f"job {sweep.job}: runs 0-4" in said
    for index in range(5):
        sweep.wait_until_done(index)
    spans = []
    for index in range(5):
        (start,) = starts(sweep, index)
        ended = json.loads((sweep.workdir(index) / "summary.json").read_text())["time"]
        spans.append((start["time"], ended))
        assert start["distributed"] is False and start["step"] == 0
        assert f"run {index}," in sweep.log(index)
    at_once = [sum(a <= start < b for a, b in spans) for start, _ in spans]
    assert max(at_once) == 2
    assert "5 runs: 5 done, 0 to submit" in sweep.submit(runs)


def test_what_is_preempted_goes_back_in_the_queue_and_resumes(sweep, cluster):
    sweep.submit([LONG])
    wait_until_ready(sweep, 0)
    urgent = cluster.urgent_job()
    cluster.wait_for_requeue(sweep.task(0))
    cluster.wait_for_state(urgent, "COMPLETED")
    sweep.wait_until_done(0)
    first, second = starts(sweep, 0)
    assert first["step"] == 0 < second["step"] < LONG["steps"]


def test_sigterm_while_a_run_still_starts_is_no_failure(sweep, cluster):
    sweep.submit([{"import_time": 1000}])
    wait_for(lambda: starts(sweep, 0), 60)
    cluster.terminate(sweep.task(0))
    cluster.wait_for_requeue(sweep.task(0))
    sweep.wait_until_done(0)
    assert [start["step"] for start in starts(sweep, 0)] == [0, 0]


def test_the_end_of_the_time_limit_is_an_interruption(sweep, cluster):
    sweep.submit([LONG], "--time=1", "--signal=TERM@30")
    cluster.wait_for_requeue(sweep.task(0))
    sweep.wait_until_done(0)
    assert starts(sweep, 0)[1]["step"] > 0


def test_a_requeue_from_outside(sweep, cluster):
    sweep.submit([LONG])
    wait_until_ready(sweep, 0)
    cluster.call("scontrol", "requeue", sweep.task(0))
    cluster.wait_for_requeue(sweep.task(0))
    sweep.wait_until_done(0)
    assert starts(sweep, 0)[1]["step"] > 0


def test_what_is_cancelled_stays_so_until_submitted_again(sweep, cluster):
    runs = [{"steps": 1}, LONG, {"import_time": 1000}]
    sweep.submit(runs)
    sweep.wait_until_done(0)
    wait_until_ready(sweep, 1)
    wait_for(lambda: starts(sweep, 2), 60)
    cluster.call("scancel", sweep.job)
    for index in (1, 2):
        assert cluster.wait_for_state(sweep.task(index), "CANCELLED")["Restarts"] == "0"
    wait_for(lambda: not cluster.call("squeue", "--noheader"), 60)
    assert "3 runs: 1 done, 2 to submit" in sweep.submit(runs)
    for index in (1, 2):
        sweep.wait_until_done(index)
    assert len(starts(sweep, 0)) == 1 and starts(sweep, 1)[1]["step"] > 0


def test_a_crash_is_not_tried_again(sweep, cluster):
    sweep.submit([{"crash": True}, {"steps": 2}])
    failed = cluster.wait_for_state(sweep.task(0), "FAILED")
    assert (failed["ExitCode"], failed["Restarts"]) == ("1:0", "0")
    sweep.wait_until_done(1)


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_of_two_processes_is_killed_the_job_fails(sweep, cluster, killed):
    sweep.submit([LONG], "-N2", "--ntasks-per-node=1", SLURM_WAIT="2")
    for process in (0, 1):
        wait_until_ready(sweep, 0, process)
        (start,) = starts(sweep, 0, process)
        assert start["distributed"] is True and start["SLURM_NTASKS"] == "2"
    (start,) = starts(sweep, 0, killed)
    os.kill(start["pid"], signal.SIGKILL)
    failed = cluster.wait_for_state(sweep.task(0), "FAILED", 20)
    assert (failed["ExitCode"], failed["Restarts"]) == ("137:0", "0")


def test_two_processes_are_interrupted_and_resumed_together(sweep, cluster):
    sweep.submit([LONG], "-N2")
    for process in (0, 1):
        wait_until_ready(sweep, 0, process)
    cluster.terminate(sweep.task(0))
    cluster.wait_for_requeue(sweep.task(0))
    sweep.wait_until_done(0)
    for process in (0, 1):
        assert [start["distributed"] for start in starts(sweep, 0, process)] == [True, True]


def test_only_the_interrupted_task_of_an_array_is_requeued(sweep, cluster):
    """The id of the last task is that of the whole array."""
    sweep.submit([{"steps": 1}, LONG])
    sweep.wait_until_done(0)
    wait_until_ready(sweep, 1)
    assert cluster.job(sweep.task(1))["JobId"] == sweep.job
    cluster.terminate(sweep.task(1))
    cluster.wait_for_requeue(sweep.task(1))
    sweep.wait_until_done(1)
    assert [len(starts(sweep, index)) for index in (0, 1)] == [1, 2]


def test_what_is_in_the_queue_is_not_submitted_again(sweep, cluster):
    runs = [LONG, LONG | {"steps": 1001}]
    sweep.submit(runs, "--hold")
    assert "to submit, in the queue already: 0-1" in sweep.submit(runs)
    appended = [*runs, {"steps": 2}]
    said = sweep.submit(appended)
    assert "3 runs: 0 done, 1 to submit, in the queue already: 0-1" in said
    sweep.wait_until_done(2)


def test_more_runs_than_an_array_holds(sweep, cluster):
    runs = [{"steps": 1 + index} for index in range(2 * slurm_cluster.MAX_ARRAY_SIZE)]
    runs[3] |= {"import_time": 1000}
    said = sweep.submit(runs, before=["--parallel=4"])
    first, second = re.findall(r"^job (\d+)", said, re.MULTILINE)
    assert f"job {first}: runs 0-8\njob {second}: runs 9-17\n" in said
    for index in (*range(3), *range(4, 9)):
        sweep.wait_until_done(index)
    cluster.terminate(sweep.task(3))
    wait_for(lambda: cluster.job(sweep.task(3))["Restarts"] != "0", 60)
    # What waits to be resumed has not ended.
    assert cluster.job(second)["Reason"] == "Dependency" and not sweep.done(9)
    cluster.wait_for_requeue(sweep.task(3))
    wait_for(lambda: all(sweep.done(index) for index in range(18)), 60)


def test_a_run_that_is_done_is_not_begun(sweep, cluster):
    sweep.submit([{"steps": 1}])
    sweep.wait_until_done(0)
    cluster.call("scontrol", "requeue", sweep.task(0))
    cluster.wait_for_requeue(sweep.task(0))
    wait_for(lambda: "run 0 is done already" in sweep.log(0), 60)
    sweep.wait_until_done(0)
    assert len(starts(sweep, 0)) == 1


def test_a_snapshot_is_what_runs(sweep, cluster, tmp_path):
    toy = tmp_path / "toy_run.py"
    shutil.copy(TESTS / "toy_run.py", toy)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "toy_run.py"], ["commit", "-qm", "toy"]):
        subprocess.run([*git, *arguments], check=True)
    sweep.submit([{"steps": 1}], "--hold", before=["--snapshot"])
    toy.write_text(toy.read_text().replace("as committed", "changed since"))
    cluster.call("scontrol", "release", sweep.task(0))
    sweep.wait_until_done(0)
    assert [start["version"] for start in starts(sweep, 0)] == ["as committed"]
    said = sweep.submit([{"steps": 1}, {"steps": 2}], before=["--snapshot"], status=2)
    assert "toy_run.py" in said and "commit first" in said
    sweep.submit([{"steps": 1}, {"steps": 2}])
    sweep.wait_until_done(1)
    assert [start["version"] for start in starts(sweep, 1)] == ["changed since"]


def test_runs_have_the_python_that_is_named(sweep, tmp_path):
    python = tmp_path / "my python"
    python.write_text(f'#!/bin/sh\ntouch "$0 was used"\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    sweep.submit([{"steps": 1}], before=[f"--python={python}"])
    sweep.wait_until_done(0)
    assert (tmp_path / "my python was used").exists()


def test_nothing_of_the_environment_is_needed(sweep, cluster, tmp_path):
    for path in ("bbo", "experiments", "launch", "tests/helpers/toy_run.py"):
        (tmp_path / pathlib.Path(path).name).symlink_to(ROOT / path)
    sweep.submit([LONG], "--export=NONE", "-n1", "-c2", "--gres=gpu:2")
    wait_until_ready(sweep, 0)
    cluster.terminate(sweep.task(0))
    cluster.wait_for_requeue(sweep.task(0))
    sweep.wait_until_done(0)
    for start in starts(sweep, 0):
        assert start["SRUN_CPUS_PER_TASK"] == "2" and start["JAX_LOCAL_DEVICE_IDS"] is None


def test_processes_and_their_gpus(sweep, cluster):
    """One process takes all GPUs of its node; several take one each; else it is a mistake."""
    seen = {}
    for index, processes in enumerate((1, 2, 3)):
        runs = [{"steps": 1 + count} for count in range(index + 1)]
        sweep.submit(runs, "-N2", f"--ntasks-per-node={processes}", "--gres=gpu:2")
        state = "COMPLETED" if processes < 3 else "FAILED"
        assert cluster.wait_for_state(sweep.task(index), state)["Restarts"] == "0"
        all_starts = [start for rank in range(6) for start in starts(sweep, index, rank)]
        assert all(start["distributed"] for start in all_starts)
        seen[processes] = [start["JAX_LOCAL_DEVICE_IDS"] for start in all_starts]
    assert seen == {1: ["0,1"] * 2, 2: [None] * 4, 3: []}
    assert "one process per node (--ntasks-per-node=1) or one per GPU" in sweep.log(2)
