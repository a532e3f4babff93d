"""What launch.slurm and job.sh ask of SLURM, by stand-ins for its commands."""

import fcntl
import pathlib
import subprocess
import sys

import fake_slurm
import pytest
from fake_slurm import finish, submitted, write_program

from launch import logs
from launch.slurm import program as slurm
from launch.slurm import squeue

ROOT = pathlib.Path(__file__).parents[3]
JOB = ROOT / "launch/slurm/job.sh"


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    return fake_slurm.install(tmp_path, monkeypatch)


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
    assert (out / "jobs").read_text() == "101 0 digits\n"
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


def test_jobs_may_have_another_python_and_another_name(fakes, spec, tmp_path, capsys):
    out, path = tmp_path / "out", spec(2)
    before = ["--python=/opt/my jax/bin/python"]
    assert submit(path, out, "-J", "mine too", before=[*before, "--dry_run"]) == 0
    assert capsys.readouterr().out == (
        f"sbatch --parsable '--job-name=mine too' --output={out}/logs/slurm-%A_%a.log --array=0-1 "
        f"-J 'mine too' {JOB} {out} 0 '/opt/my jax/bin/python'\n"
    )
    assert submit(path, out, "-J", "mine too", before=before) == 0
    assert submitted(fakes)[0][-3:] == [str(out), "0", "/opt/my jax/bin/python"]
    assert (out / "jobs").read_text() == "101 0 mine too\n"
    (fakes / "queue").write_text("101|1|PENDING|0:00|(None)|mine too\n")
    assert submit(path, out) == 0
    assert "2 runs: 0 done, 1 to submit, in the queue already: 1\n" in capsys.readouterr().out
    assert submit(path, out, before=["--python="]) == 2
    check_error(capsys, "--python must be given")


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
    assert (out / "jobs").read_text() == "101 0 digits\n102 8 digits\n103 12 digits\n"


def test_without_a_bound_arrays_do_not_wait(fakes, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("MAX_ARRAY_SIZE", "4")
    assert submit(spec(6), tmp_path / "out") == 0
    assert [words[3] for words in submitted(fakes)] == ["--array=0-3", "--array=0-1"]
    assert not any("--dependency" in word for words in submitted(fakes) for word in words)


def test_what_is_in_the_queue_is_left_alone(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "jobs").write_text("17 0 digits\n18 10 my |digits\n")
    (fakes / "queue").write_text(
        "17|1|PENDING|0:00|(Resources)|digits\n"
        "17|3|COMPLETING|1-02:03:04|n1|digits\n"
        "16|0|RUNNING|0:05|n1|digits\n"
        "CLUSTER: one\n"
        "170|N/A|RUNNING|0:05|n1|digits\n"
        "18|2|RUNNING|10:00|n[1-2]|my |digits\n"
    )
    assert squeue.queued(out) == {
        1: ("PENDING", "0:00", "(Resources)"),
        3: ("COMPLETING", "1-02:03:04", "n1"),
        12: squeue.Job(state="RUNNING", elapsed="10:00", reason="n[1-2]"),
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
    assert (out / "jobs").read_text() == "101 0 digits\n"
    (fakes / "queue").write_text(
        "101|0|PENDING|0:00|(None)|digits\n101|1|PENDING|0:00|(None)|digits\n"
    )
    assert submit(spec(5), out) == 0
    assert [words[-2] for words in submitted(fakes)] == ["0", "2", "2", "4"]


def test_what_is_refused_binds_nobody(fakes, spec, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("REFUSED", "1")
    assert submit(spec(2), out, "-p", "gpuu") == 2
    assert not out.exists()
    monkeypatch.setenv("REFUSED", "3")
    assert submit(spec(2), out) == 0
    finish(out, 0, 1)
    before = (out / "runs.jsonl").read_text()
    assert submit(spec(3), out) == 2
    assert (out / "runs.jsonl").read_text() == before
    assert (out / "jobs").read_text() == "102 0 digits\n"


def test_a_snapshot_that_is_refused_writes_nothing(fakes, spec, tmp_path, capsys, monkeypatch):
    (tmp_path / "free_program_of_test.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    path = spec(1)
    path.write_text(path.read_text().replace("json.tool", "free_program_of_test"))
    assert submit(path, tmp_path / "out", before=["--snapshot"]) == 2
    check_error(capsys, "--snapshot of")
    assert not (tmp_path / "out").exists()


def test_logs_that_are_a_file(fakes, spec, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "logs").touch()
    assert submit(spec(1), out) == 2
    check_error(capsys, f"{out}/logs cannot be made: File exists; name another folder")
    assert [path.name for path in out.iterdir()] == ["logs"] and not submitted(fakes)


def test_what_sbatch_prints(fakes, spec, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CLUSTER", ";north")
    assert submit(spec(1), tmp_path / "out") == 0
    assert (tmp_path / "out/jobs").read_text() == "101 0 digits\n"
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
    (out / "jobs").write_text("17 0 digits\n")
    assert submit(spec(1), out) == 2
    check_error(capsys, f"{command} is not found; do this on a machine with SLURM")


def test_a_controller_that_does_not_answer(fakes, tmp_path, capsys, spec):
    write_program(tmp_path / "bin/squeue", "echo 'slurm_load_jobs error: no answer' >&2; exit 1")
    out = tmp_path / "out"
    out.mkdir()
    (out / "jobs").write_text("17 0 digits\n")
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
