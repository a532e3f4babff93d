"""A sweep on a TPU VM: what each worker is told, and what follows from how it ends."""

import json
import pathlib
import shlex
import subprocess
import sys

import absl
import pytest
from launching import write_program

from experiments.command_line.program import run_program
from launch import logs, tpu

ROOT = pathlib.Path(__file__).parents[2]

SPEC = """
SCRIPT = "toy"
def runs():
    yield {"rate": 0.1, "on": "conv.*/kernel$", "augment": False}
    yield {"name": "it's two words", "layers": [1, 2]}
    yield {}
"""

# Each worker adds its arguments to OUT/log, and ends as STATUS_<run>_<worker> says.
TOY = """
import json, os, pathlib, sys
if __name__ == "__main__":
    workdir, worker = pathlib.Path(sys.argv[1].removeprefix("--workdir=")), os.environ["WORKER"]
    workdir.mkdir(exist_ok=True)
    with open(workdir.parent / "log", "a") as log:
        log.write(json.dumps([worker, *sys.argv[1:]]) + "\\n")
    if status := int(os.environ.get(f"STATUS_{workdir.name}_{worker}", 0)):
        sys.exit(status)
    if "LOST" not in os.environ:
        (workdir / "summary.json").write_text("{}")
"""

# Two workers. As the real one, it ends with the first status that is not 0, after both have ended.
GCLOUD = """
import json, os, subprocess, sys
with open(os.environ["GCLOUD_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
shell = ["bash", "-c", sys.argv[-1].removeprefix("--command=")]
ends = [
    subprocess.run(shell, cwd=os.environ["HOME"], env={**os.environ, "WORKER": worker})
    for worker in "01"
]
sys.exit(next((end.returncode for end in ends if end.returncode), 0))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a spec, gcloud on the path, and the workers' home with the program."""
    for name, text in {
        "home/my repo/toy.py": TOY,
        "spec.py": SPEC,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin/gcloud", GCLOUD)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GCLOUD_LOG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.syspath_prepend(tmp_path / "home/my repo")
    monkeypatch.setattr(tpu, "PATIENCE", 0)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("toy", None)


def launch(*further, out="out"):
    flags = ("--name=pod", "--zone=us-central2-b", "--directory=my repo", *further)
    argv = ["tpu", "spec.py", out, f"--python={sys.executable}", *flags]
    return run_program(tpu.main, tpu.FLAGS, argv, positional=("SPEC", "OUT"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def arguments(place, index, *flags):
    return [f"--workdir={place}/out/{index:04d}", *flags, "--distributed"]


FLAGS = (
    ("--rate=0.1", "--on=conv.*/kernel$", "--noaugment"),
    ("--name=it's two words", "--layers=1,2"),
    (),
)


def test_every_worker_does_every_run_in_turn(place, capfd):
    assert launch() == 0
    assert lines(place / "out/log") == [
        [worker, *arguments(place, index, *FLAGS[index])] for index in range(3) for worker in "01"
    ]
    out, err = capfd.readouterr()
    assert err == "" and out.splitlines() == [
        "run 0: rate=0.1,on=conv.*/kernel$,augment=False",
        "run 1: name=it's two words,layers=1,2",
        "run 2: (no flags)",
    ]
    before = lines(place / "gcloud")
    assert len(before) == 3
    assert launch() == 0 and lines(place / "gcloud") == before


def test_gcloud_is_told_as_its_manual_says(place):
    assert launch("--run=2", "--project=big") == 0
    assert lines(place / "gcloud") == [
        [
            *("compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-central2-b", "--project=big"),
            "--worker=all",
            f"--command=cd 'my repo' && exec {sys.executable} -m bbo toy"
            f" --workdir={place}/out/0002 --distributed",
        ]
    ]


def test_others_see_what_runs(place, capfd, monkeypatch):
    """And leave it alone, as it is left alone here."""
    seen = []

    def execute(*_):
        seen.append([logs.is_running(place / "out", index) for index in range(3)])
        return 75

    monkeypatch.setattr(tpu, "_execute", execute)
    assert launch("--run=1") == 75
    assert seen == [[False, True, False]] and not logs.is_running(place / "out", 1)
    capfd.readouterr()
    with logs.open_locked(place / "out", 1):
        assert launch("--run=1") == 2
    out, err = capfd.readouterr()
    said = f"error: run 1 of {place}/out is running already; wait for it, or use --run\n"
    assert (out, err, len(seen)) == ("", said, 1)


def test_one_run(place, capfd):
    assert launch("--run=1") == 0
    assert lines(place / "out/log") == [
        [worker, *arguments(place, 1, *FLAGS[1])] for worker in "01"
    ]
    assert launch("--run=3") == 2
    assert "there is no run 3: spec.py has 3, counted from 0" in capfd.readouterr().err
    assert launch("--run=3", out="other") == 2 and not (place / "other").exists()


def test_a_dry_run_prints_what_would_be_done_and_writes_nothing(place, capfd, monkeypatch):
    (place / "out/0001").mkdir(parents=True)
    (place / "out/0001/summary.json").write_text("{}")
    before = sorted((place / "out").rglob("*"))
    monkeypatch.setenv("PATH", str(place / "home"))  # no gcloud either
    assert launch("--dry_run", "--directory=~/bbo", "--python=.venv/bin/python") == 0
    head = "gcloud compute tpus tpu-vm ssh pod --zone=us-central2-b --worker=all"
    run = "'--command=cd bbo && exec .venv/bin/python -m bbo toy"
    assert capfd.readouterr().out.splitlines() == [
        f"{head} {run} --workdir={place}/out/0000 --rate=0.1 '\"'\"'--on=conv.*/kernel$'\"'\"'"
        " --noaugment --distributed'",
        f"{head} {run} --workdir={place}/out/0002 --distributed'",
    ]
    assert sorted((place / "out").rglob("*")) == before
    assert not (place / "gcloud").exists()


def test_a_failure_stops_the_sweep_and_the_same_command_goes_on(place, capfd, monkeypatch):
    monkeypatch.setenv("STATUS_0001_1", "1")
    assert launch() == 1
    err = capfd.readouterr().err
    assert err.startswith(f"failed: the run {place}/out/0001 ended with status 1 on a worker; ")
    assert "the same command goes on with it" in err and err.count("\n") == 1
    assert [line[0] for line in lines(place / "out/log")] == ["0", "1", "0", "1"]
    monkeypatch.delenv("STATUS_0001_1")
    # The first worker came to the end; for the launcher that is the end of the run.
    (place / "out/0001/summary.json").unlink()
    assert launch() == 0
    assert [line[1][-4:] for line in lines(place / "out/log")[4:]] == 2 * ["0001"] + 2 * ["0002"]


def test_the_command_in_the_message_ends_what_is_left_of_the_run_and_only_that(
    place, capfd, monkeypatch
):
    monkeypatch.setenv("STATUS_0000_0", "1")
    out = str(place / "my (a+b).[1]|c")
    assert launch(out=out) == 1
    command = shlex.split(capfd.readouterr().err.partition("work on it there: ")[2])
    assert command[:-1] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-central2-b"),
        "--worker=all",
    ]
    remote = command[-1].removeprefix("--command=")
    processes = [
        subprocess.Popen([sys.executable, "-c", "input()", *flags], stdin=subprocess.PIPE)
        for flags in (
            [f"--workdir={out}/0000", "--distributed"],
            [f"--workdir={out}/00001", "--distributed"],
            [f"--workdir={out.replace('.', 'x')}/0000", "--distributed"],
        )
    ]
    try:
        done = subprocess.run(["bash", "-c", f"{remote}; exit $?"])
        assert done.returncode == 0
        assert processes[0].wait(10) == -15
        assert [process.poll() for process in processes[1:]] == [None, None]
    finally:
        for process in processes:
            process.communicate(b"\n")


def test_preemption_has_its_status(place, capfd, monkeypatch):
    monkeypatch.setenv("STATUS_0000_0", "75")
    monkeypatch.setenv("STATUS_0000_1", "75")
    assert launch() == 75
    err = capfd.readouterr().err
    assert err == f"preempted: {place}/out/0000 is saved; the same command resumes it\n"
    assert len(lines(place / "gcloud")) == 1


def test_a_folder_that_is_not_shared_is_noticed_at_the_first_run(place, capfd, monkeypatch):
    monkeypatch.setenv("LOST", "")
    assert launch() == 1
    assert "is OUT a folder that they share with this machine?" in capfd.readouterr().err
    assert len(lines(place / "gcloud")) == 1


def test_an_interrupt_tells_what_goes_on(place, capfd, monkeypatch):
    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(tpu.subprocess, "run", interrupted)
    assert launch() == 130
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(f"the run {place}/out/0000 goes on on the workers. To end what may")
    assert "pkill -f" in first and second.startswith("interrupted")


@pytest.mark.parametrize(
    ("flags", "out", "message"),
    [
        (["--name="], "out", "--name must be given"),
        (["--name=", "--zone="], "out", "--name and --zone must be given"),
        ([], "gs://bucket/out", "mount the bucket at the same path on all machines"),
        (["--run=-1"], "out", "--run=-1"),
    ],
)
def test_mistakes(place, capfd, flags, out, message):
    assert launch(*flags, out=out) == 2
    assert message in capfd.readouterr().err
    assert not (place / "out").exists()


def test_without_gcloud_nothing_is_written(place, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(place / "home"))
    assert launch() == 2
    assert "gcloud is not found" in capfd.readouterr().err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("launch.k8s", ("--image=i", "--queue=q", "--volume=c:/")),
        ("launch.tpu", ("--name=pod", "--zone=z")),
    ],
)
def test_needs_nothing_but_absl(tmp_path, module, flags):
    (tmp_path / "absl").symlink_to(pathlib.Path(absl.__file__).parent)

    def run(*arguments):
        # -S leaves out all that is installed.
        command = [sys.executable, "-S", "-W", "error", "-m", module, *arguments]
        bare = {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)}
        done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    shown, told = run("--help")
    assert "--[no]dry_run" in shown and told == ""
    printed, told = run("experiments/sweeps/digits.py", str(tmp_path / "out"), *flags, "--dry_run")
    assert printed.count("--distributed") == (12 if module == "launch.tpu" else 0)
    assert printed.count("--workdir=") == 12
    assert "Traceback" not in told and "Warning" not in told
