"""What job.sh does with the end of a run, and whether it starts it; srun is a stand-in."""

import pathlib
import subprocess
import sys

import pytest
from slurm_cluster import wait_for

from bbo import files
from launch.slurm import sbatch

ROOT = pathlib.Path(__file__).parents[3]
JOB = ROOT / "launch/slurm/job.sh"
SRUN = 'echo "$@" > "$OUT/srun"; env > "$OUT/env"; sleep "$SECONDS_OF_RUN"; exit "$ENDS"'
ALONE = {"SLURM_NNODES": "1", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}


@pytest.fixture
def job(tmp_path):
    """Does job.sh for run 14; gives its exit status and what it says."""
    for name, text in (("srun", SRUN), ("scontrol", 'echo "$@" >> "$OUT/scontrol"')):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    out = tmp_path / "out of it"
    out.mkdir()

    def run(*snapshot, ends=0, cancel=False, **environment):
        usual = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "OUT": str(out), **ALONE}
        usual |= {"SECONDS_OF_RUN": str(int(cancel)), "ENDS": str(ends)}
        with subprocess.Popen(
            ["bash", JOB, out, "10", sys.executable, *snapshot],
            cwd=ROOT,
            env=usual | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            if cancel:
                wait_for((out / "env").exists, 10)
                process.terminate()
            said = process.communicate(timeout=30)[0]
        return process.returncode, said

    run.out = out
    return run


def requeued(job):
    asked = job.out / "scontrol"
    return asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize("status", [75, 143])
def test_interrupted_runs_go_back_in_the_queue(job, status):
    ended, said = job(ends=status)
    assert ended == status and "run 14, start 1" in said
    assert requeued(job) == "requeue 7_4\n"


@pytest.mark.parametrize("status", [0, 1, 2, 130, 137, 175])
def test_others_do_not(job, status):
    assert job(ends=status)[0] == status
    assert requeued(job) == ""


def test_nor_does_what_was_interrupted_too_often(job):
    assert job(ends=75, SLURM_RESTART_COUNT="99")[0] == 75
    assert requeued(job) == "requeue 7_4\n"
    status, said = job(ends=75, SLURM_RESTART_COUNT="100")
    assert status == 75 and "start 101" in said
    assert "interrupted 100 times; submit the sweep again to go on" in said
    assert requeued(job) == "requeue 7_4\n"


def test_nor_does_what_was_cancelled(job):
    assert job(ends=75, cancel=True)[0] == 75
    assert requeued(job) == ""


def test_a_run_that_is_done_is_not_started(job):
    (job.out / "0014").mkdir()
    (job.out / "0014/summary.json").touch()
    status, said = job()
    assert status == 0 and "run 14 is done already" in said
    assert not (job.out / "srun").exists()


def test_a_run_that_is_damaged_is_started(job):
    folder = job.out / "0014"
    folder.mkdir()
    names = ("config.json", "curve.csv", "summary.json")
    for name in names:
        (folder / name).write_text(name)
    (folder / files.SUMS).write_text(files.sums_of(folder, names))
    assert "done already" in job()[1]
    (folder / "summary.json").write_text("")
    status, said = job()
    assert status == 0 and "done already" not in said and (job.out / "srun").exists()


def settings(job):
    """What srun was given: its arguments, and the environment."""
    lines = (job.out / "env").read_text().splitlines()
    return (job.out / "srun").read_text().split(), dict(line.split("=", 1) for line in lines)


def test_one_process(job):
    job(SLURM_GPUS_ON_NODE="4", SLURM_CPUS_PER_TASK="8")
    words, environment = settings(job)
    end = [sys.executable, "-m", "bbo", "launch.sweep", *str(job.out).split(), "14"]
    assert words == ["--export=ALL", "--kill-on-bad-exit=0", "--label", *end]
    assert (environment["SRUN_CPUS_PER_TASK"], environment["SLURM_WAIT"]) == ("8", "60")
    assert not {"JAX_LOCAL_DEVICE_IDS", "PYTHONPATH", "PYTHONSAFEPATH"} & set(environment)


def test_several_processes(job):
    cases = [
        # nodes, tasks, GPUs of a node, devices of a process
        ("2", None, None, None),
        ("2", "2", "3", "0,1,2"),
        ("2", None, "3", "0,1,2"),
        ("1", "2", None, None),
        ("1", "2", "2", None),
        ("3", "12", "4", None),
    ]
    for nodes, tasks, gpus, devices in cases:
        given = {"SLURM_NNODES": nodes, "SLURM_NTASKS": tasks, "SLURM_GPUS_ON_NODE": gpus}
        job(**{name: text for name, text in given.items() if text})
        words, environment = settings(job)
        assert words[-1] == "--distributed"
        assert environment.get("JAX_LOCAL_DEVICE_IDS") == devices
        assert "SRUN_CPUS_PER_TASK" not in environment


def test_processes_that_are_neither_one_for_a_node_nor_for_a_gpu(job):
    status, said = job(SLURM_NNODES="2", SLURM_NTASKS="4", SLURM_GPUS_ON_NODE="8")
    assert status == 2 and "4 processes on 2 nodes with 8 GPUs each" in said
    assert not (job.out / "srun").exists()


def test_a_snapshot_comes_first(job):
    job("/copy")
    assert settings(job)[1]["PYTHONPATH"] == "/copy" and settings(job)[1]["PYTHONSAFEPATH"] == "1"
    job("/copy", PYTHONPATH="/more")
    assert settings(job)[1]["PYTHONPATH"] == "/copy:/more"


def test_the_signal_is_the_one_that_the_launcher_knows():
    assert f"\n#SBATCH --requeue --open-mode=append --signal={sbatch.SIGNAL}\n" in JOB.read_text()
