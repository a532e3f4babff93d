"""What launch.slurm and job.sh ask of SLURM, by stand-ins for its commands."""

import fcntl
import os
import pathlib
import subprocess
import sys

import pytest

from bbo.types import UsageError
from launch import logs, slurm

ROOT = pathlib.Path(__file__).parents[1]
JOB = ROOT / "launch/job.sh"
SQUEUE = 'env > "$FAKES/squeue.env"; cat "$FAKES/queue"'
SCONTROL = 'echo "MaxArraySize            = $MAX_ARRAY_SIZE"; echo "Max = 7"'
SBATCH = """
for word; do echo "$word"; done > "$FAKES/sbatch.$(ls "$FAKES" | grep -c sbatch.)"
count=$(ls "$FAKES" | grep -c sbatch.)
if [ "$count" = "$REFUSED" ]; then
  echo "sbatch: error: invalid partition: gpuu" >&2
  echo "sbatch: error: Batch job submission failed" >&2
  exit 1
fi
echo "$PRINTED$((100 + count))$CLUSTER"
"""


def write_program(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """SLURM's commands; the queue is a file, and so are the arguments of every sbatch."""
    programs, state = tmp_path / "bin", tmp_path / "fakes"
    programs.mkdir()
    state.mkdir()
    (state / "queue").touch()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        write_program(programs / name, text)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(state))
    monkeypatch.setenv("MAX_ARRAY_SIZE", "1001")
    for name in ("SBATCH_SIGNAL", "SBATCH_TIMELIMIT", "REFUSED", "PRINTED", "CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    return state


@pytest.fixture
def spec(tmp_path):
    def write(count):
        path = tmp_path / "digits.py"
        runs = f"[dict(n=i) for i in range({count})]"
        path.write_text(f"SCRIPT = 'json.tool'\ndef runs():\n    yield from {runs}\n")
        return path

    return write


def submit(spec, out, *options, before=()):
    return slurm.run(["slurm", str(spec), str(out), *before, "--", *options])


def submitted(fakes):
    return [path.read_text().splitlines() for path in sorted(fakes.glob("sbatch.*"))]


def finish(out, *runs):
    for run in runs:
        folder = out / f"{run:04d}"
        folder.mkdir(parents=True)
        (folder / "summary.json").touch()


def test_one_array_of_what_is_left(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    finish(out, 2, 5)
    assert submit(spec(9), out, "-p", "gpu", "--time=4:00:00", before=["--parallel=3"]) == 0
    assert submitted(fakes) == [
        [
            "--parsable",
            "--job-name=digits",
            f"--output={out}/logs/slurm-%A_%a.log",
            "--array=0-1,3-4,6-8%3",
            "-p",
            "gpu",
            "--time=4:00:00",
            str(JOB),
            str(out),
            "0",
            sys.executable,
        ]
    ]
    assert (out / "jobs").read_text() == "101 0\n"
    assert (out / "logs").is_dir() and len((out / "runs.jsonl").read_text().splitlines()) == 9
    assert capsys.readouterr().out == (
        "9 runs: 2 done, 7 to submit\n"
        "job 101: runs 0-1,3-4,6-8\n"
        f"Watch:  python -m launch.status {out}\n"
        "Cancel: scancel 101\n"
    )


def test_a_dry_run_shows_the_commands_and_writes_nothing(
    fakes, spec, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = spec(5)
    monkeypatch.setenv("MAX_ARRAY_SIZE", "3")
    before = sorted(tmp_path.rglob("*"))
    assert submit(path, "my out", "--comment=a b", before=["--dry_run", "--parallel=2"]) == 0
    out = tmp_path / "my out"
    start = f"sbatch --parsable --job-name=digits '--output={out}/logs/slurm-%A_%a.log'"
    end = f"'--comment=a b' {JOB} '{out}'"
    printed, said = capsys.readouterr()
    assert printed == (
        f"{start} --array=0-2%2 {end} 0 {sys.executable}\n"
        f"{start} --array=0-1%2 --dependency=afterany:PREVIOUS_ID {end} 3 {sys.executable}\n"
    )
    assert said == "5 runs: 0 done, 5 to submit\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_more_runs_than_an_array_holds_follow_each_other(fakes, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_ARRAY_SIZE", "4")
    out = tmp_path / "out"
    finish(out, 4, 5, 6, 7)
    assert submit(spec(14), out, "--dependency=singleton", before=["--parallel=2"]) == 0
    arrays = [
        [word for word in words if word.startswith(("--a", "--d"))] for words in submitted(fakes)
    ]
    assert arrays == [
        ["--array=0-3%2", "--dependency=singleton"],
        ["--array=0-3%2", "--dependency=afterany:101", "--dependency=singleton"],
        ["--array=0-1%2", "--dependency=afterany:102", "--dependency=singleton"],
    ]
    assert [words[-2] for words in submitted(fakes)] == ["0", "8", "12"]
    assert (out / "jobs").read_text() == "101 0\n102 8\n103 12\n"


def test_without_a_bound_arrays_do_not_wait(fakes, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_ARRAY_SIZE", "4")
    assert submit(spec(6), tmp_path / "out") == 0
    assert [words[3] for words in submitted(fakes)] == ["--array=0-3", "--array=0-1"]
    assert not any("--dependency" in word for words in submitted(fakes) for word in words)


def test_what_is_in_the_queue_is_left_alone(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "jobs").write_text("17 0\n18 10\n")
    (fakes / "queue").write_text(
        "17|1|PENDING|0:00|(Resources)\n"
        "17|3|COMPLETING|1-02:03:04|n1\n"
        "16|0|RUNNING|0:05|n1\n"
        "CLUSTER: one\n"
        "170|N/A|RUNNING|0:05|n1\n"
        "18|2|RUNNING|10:00|n[1-2]\n"
    )
    assert slurm.queued(out) == {
        1: ("PENDING", "0:00", "(Resources)"),
        3: ("COMPLETING", "1-02:03:04", "n1"),
        12: slurm.Job(state="RUNNING", elapsed="10:00", reason="n[1-2]"),
    }
    finish(out, 0)
    assert submit(spec(5), out) == 0
    assert "5 runs: 1 done, 2 to submit, in the queue already: 1,3\n" in capsys.readouterr().out
    assert submitted(fakes)[0][3] == "--array=2,4"
    finish(out, 2, 4)
    assert submit(spec(5), out) == 0
    said = "5 runs: 3 done, 0 to submit, in the queue already: 1,3\n"
    assert capsys.readouterr().out == said and len(submitted(fakes)) == 1


def test_what_runs_on_this_machine_is_left_alone(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "logs").mkdir()
    with logs.open_locked(out, 1):
        assert submit(spec(3), out) == 0
    said = "3 runs: 0 done, 2 to submit, running on this machine: 1\n"
    assert said in capsys.readouterr().out
    assert submitted(fakes)[0][3] == "--array=0,2"


def test_a_queue_is_asked_for_only_if_something_was_submitted(tmp_path, monkeypatch, fakes):
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert slurm.queued(tmp_path) == {} and not (fakes / "squeue.env").exists()
    (tmp_path / "jobs").touch()
    assert slurm.queued(tmp_path) == {} and not (fakes / "squeue.env").exists()
    (tmp_path / "jobs").write_text("17\n")
    with pytest.raises(UsageError, match="jobs holds something else"):
        slurm.queued(tmp_path)
    (tmp_path / "jobs").write_text("17 0\n")
    assert slurm.queued(tmp_path) == {}
    assert "SQUEUE_STATES" not in (fakes / "squeue.env").read_text()


def test_two_submissions_at_once(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with (out / "jobs").open("a") as jobs:
        fcntl.flock(jobs, fcntl.LOCK_EX)
        assert submit(spec(1), out) == 2
    said = capsys.readouterr().err
    assert said == f"error: another launch.slurm is submitting runs of {out}; wait for it\n"
    assert submit(spec(1), out) == 0


def test_file_systems_without_locks(fakes, spec, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert submit(spec(1), tmp_path / "out") == 0


def check_error(capsys, *parts):
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert all(part in said for part in parts), said


def test_what_sbatch_refuses(fakes, spec, tmp_path, capsys, monkeypatch):
    """What was submitted before is known, and not submitted again."""
    monkeypatch.setenv("REFUSED", "2")
    monkeypatch.setenv("MAX_ARRAY_SIZE", "2")
    out = tmp_path / "out"
    assert submit(spec(5), out, "-p", "gpuu") == 2
    check_error(
        capsys, "sbatch fails with status 1", "invalid partition: gpuu sbatch: error: Batch"
    )
    assert (out / "jobs").read_text() == "101 0\n"
    (fakes / "queue").write_text("101|0|PENDING|0:00|(None)\n101|1|PENDING|0:00|(None)\n")
    assert submit(spec(5), out) == 0
    assert [words[-2] for words in submitted(fakes)] == ["0", "2", "2", "4"]


def test_what_sbatch_prints(fakes, spec, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CLUSTER", ";north")
    assert submit(spec(1), tmp_path / "out") == 0
    assert (tmp_path / "out/jobs").read_text() == "101 0\n"
    monkeypatch.setenv("PRINTED", "Usage: ")
    assert submit(spec(1), tmp_path / "other", "--usage") == 2
    check_error(capsys, "sbatch gives no job id but 'Usage: 102;north", "leave such options out")


def test_wrong_options_write_nothing(fakes, spec, tmp_path, capsys):
    assert submit(spec(1), tmp_path / "out", "--time=1") == 2
    check_error(capsys, "--time=1 is too short", "120 seconds before the end", "at least 4 minutes")
    assert slurm.run(["slurm", str(spec(1)), str(tmp_path / "out"), "-p", "gpu"]) == 2
    check_error(capsys, "Unknown command line flag 'p'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sbatch", "squeue", "scontrol"])
def test_without_slurm(command, fakes, spec, tmp_path, capsys, monkeypatch):
    programs = tmp_path / "bin"
    (programs / command).unlink()
    for name in ("bash", "cat", "env", "ls", "grep"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    out = tmp_path / "out"
    out.mkdir()
    (out / "jobs").write_text("17 0\n")
    assert submit(spec(1), out) == 2
    check_error(capsys, f"{command} is not found; do this on a machine with SLURM")


def test_a_controller_that_does_not_answer(fakes, tmp_path, capsys, spec):
    write_program(tmp_path / "bin/squeue", "echo 'slurm_load_jobs error: no answer' >&2; exit 1")
    out = tmp_path / "out"
    out.mkdir()
    (out / "jobs").write_text("17 0\n")
    assert submit(spec(1), out) == 2
    check_error(capsys, "squeue fails with status 1: slurm_load_jobs error: no answer")


def test_help_where_nothing_is_installed():
    code = (
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.partition('.')[0]\n"
        "        ours = {'absl', 'bbo', 'experiments', 'launch'}\n"
        "        if top not in sys.stdlib_module_names | ours:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.argv[1:] = ['--help']\n"
        "runpy.run_module('launch.slurm', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m launch.slurm SPEC OUT" in done.stdout and "--[no]dry_run" in done.stdout
