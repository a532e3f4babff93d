"""The state of every run is told from files and the queue, whatever is missing or half written."""

import json
import os
import pathlib
import pty
import subprocess
import sys
import time

import pytest
from mistakes import check_told

from bbo import files
from bbo.types import RunError, UsageError
from experiments.command_line.program import run_program
from launch import logs, status, sweep
from launch.k8s import program as k8s
from launch.slurm import squeue

FLAGS = (
    {"noise": "none", "seed": 0},
    {"noise": "dropout", "rate": 0.1, "seed": 0},
    {"noise": "none", "seed": 1, "augment": False},
    {"noise": "none", "seed": 2, "sparsities": [0, 0.5]},
    {"noise": "none", "seed": 3},
    {"noise": "none", "seed": 4},
)
EPOCH = {"epoch": 12, "validation_top1": 0.9511, "seconds": 3}
SUMMARY = {
    "unpruned_test_top1": {"none": 0.986, "batch_norm": 0.9917},
    "selected_epoch": 60,
    "seconds": [1, 2],
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def out(tmp_path):
    """Run 0 is done, 1 runs here, 2 and 3 are in the queue, 4 was stopped, 5 is new."""
    folder = tmp_path / "out"
    runs = [{"script": "experiments.run", "flags": values} for values in FLAGS]
    write(folder / "runs.jsonl", "".join(json.dumps(run) + "\n" for run in runs))
    write(folder / "0000/summary.json", json.dumps(SUMMARY))
    write(folder / "0001/metrics.jsonl", json.dumps(EPOCH) + '\n{"epoch": 13, "valid')
    write(folder / "0001/config.json", json.dumps({"config": {"train": {"epochs": 60}}}))
    write(folder / "0002/metrics.jsonl", '{"epoch": 3, "test_top1": 0.5}\n')
    write(folder / "0004/config.json", "{")
    (folder / "logs").mkdir()
    with logs.open_locked(folder, 1):
        yield folder


@pytest.fixture(autouse=True)
def queue(monkeypatch):
    jobs = {
        2: squeue.Job("RUNNING", "1:02:03", "node7"),
        3: squeue.Job("PENDING", "0:00", "(Priority)"),
    }
    monkeypatch.setattr(squeue, "queued", lambda out: dict(jobs))
    return jobs


def show(out, *argv):
    arguments = ["status", str(out), *argv]
    return run_program(status.main, status.FLAGS, arguments, positional=("OUT",))


TABLE = """\
0  DONE                      test 98.6 %, batch_norm 99.2 %  noise=none,seed=0
1  RUNNING                   epoch 12/60, validation 95.1 %  noise=dropout,rate=0.1,seed=0
2  RUNNING  1:02:03 node7    epoch 3, test 50.0 %            noise=none,seed=1,augment=False
3  PENDING  0:00 (Priority)                                  noise=none,seed=2,sparsities=0,0.5
4  STOPPED                                                   noise=none,seed=3
5  NEW                                                       noise=none,seed=4
6 runs: 1 DONE, 2 RUNNING, 1 PENDING, 1 STOPPED, 1 NEW
"""


def test_table(out, capsys):
    assert show(out) == 0
    assert capsys.readouterr() == (TABLE, "")


def test_columns_that_are_empty_everywhere_are_left_out(tmp_path, queue, capsys):
    queue.clear()
    write(tmp_path / "runs.jsonl", '{"script": "experiments.run", "flags": {"seed": 0}}\n')
    assert show(tmp_path) == 0
    assert capsys.readouterr().out == "0  NEW  seed=0\n1 runs: 1 NEW\n"
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_a_log_alone_shows_that_a_run_was_started(out, queue):
    queue.clear()
    logs.log_path(out, 5).touch()
    states = [found.state for found in status.statuses(out, len(FLAGS))]
    assert states == ["DONE", "RUNNING", "STOPPED", "NEW", "STOPPED", "STOPPED"]


def test_what_is_done_is_done_even_if_slurm_has_not_noticed(out, queue):
    queue[0] = squeue.Job("COMPLETING", "9:00", "node7")
    queue[5] = squeue.Job("COMPLETING", "9:00", "node7")
    found = status.statuses(out, len(FLAGS))
    assert found[0][:2] == ("DONE", "") and found[5][:2] == ("COMPLETING", "9:00 node7")


def test_without_slurm_the_rest_is_shown(out, monkeypatch, capsys):
    def queued(out):
        raise UsageError("squeue is not found")

    monkeypatch.setattr(squeue, "queued", queued)
    assert show(out) == 0
    printed, told = capsys.readouterr()
    assert printed.endswith("6 runs: 1 DONE, 1 RUNNING, 2 STOPPED, 2 NEW\n")
    assert told == "PENDING cannot be told: squeue is not found\n"


def test_what_is_on_kubernetes_is_shown(out, monkeypatch, capsys):
    pending = squeue.Job("PENDING", "", "on Kubernetes")
    monkeypatch.setattr(
        k8s, "queued", lambda out: {4: pending, 5: pending._replace(state="RUNNING")}
    )
    assert show(out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("2  RUNNING  1:02:03 node7 ")
    assert lines[4].split() == ["4", "PENDING", "on", "Kubernetes", "noise=none,seed=3"]
    assert lines[5].split() == ["5", "RUNNING", "on", "Kubernetes", "noise=none,seed=4"]

    def queued(out):
        raise RunError("kubectl get: no route to host")

    monkeypatch.setattr(k8s, "queued", queued)
    assert show(out) == 0
    assert capsys.readouterr() == (TABLE, "PENDING cannot be told: kubectl get: no route to host\n")


def test_of_what_is_damaged_no_number_is_shown(out, capsys):
    folder = out / "0000"
    for name in ("config.json", "curve.csv"):
        write(folder / name, "")
    names = ("config.json", "curve.csv", "summary.json")
    write(folder / files.SUMS, files.sums_of(folder, names))
    assert show(out) == 0 and capsys.readouterr().out == TABLE
    write(folder / "summary.json", json.dumps(SUMMARY).replace("0.986", "0.996"))
    assert show(out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["0", "DAMAGED", "noise=none,seed=0"] and "1 DAMAGED" in lines[-1]
    assert show(out, "--csv=-") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("0,DAMAGED,none,0,")
    assert sweep.unfinished(out, sweep.read_runs(out)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "{", "[3]", "null", '{"unpruned_test_top1": 0.5}', "\udcff"])
def test_files_that_cannot_be_read(out, text, capsys):
    for name in ("0000/summary.json", "0001/config.json"):
        (out / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    (out / "0002/metrics.jsonl").write_bytes(
        text.encode("utf-8", "surrogateescape") + b'\n{"epoch": 4'
    )
    assert show(out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["0", "DONE", "noise=none,seed=0"]
    assert " epoch 12, validation 95.1 % " in lines[1] and "epoch" not in lines[2]
    assert show(out, "--csv=-") == 0


CSV = """\
index,state,noise,seed,rate,augment,sparsities,\
unpruned_test_top1.none,unpruned_test_top1.batch_norm,selected_epoch
0,DONE,none,0,,,,0.986,0.9917,60
1,RUNNING,dropout,0,0.1,,,,,
2,RUNNING,none,1,,False,,,,
3,PENDING,none,2,,,"0,0.5",,,
4,STOPPED,none,3,,,,,,
5,NEW,none,4,,,,,,
"""


def test_csv(out, tmp_path, capsys):
    assert show(out, "--csv=-") == 0
    assert capsys.readouterr() == (CSV, "")
    file = tmp_path / "runs.csv"
    file.write_text("old")
    assert show(out, f"--csv={file}") == 0
    assert capsys.readouterr() == ("", f"6 runs written to {file}\n")
    assert file.read_text() == CSV
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs.csv"]


def check_error(out, capsys, argv, message):
    assert show(out, *argv) == 2
    check_told(capsys, message)


def test_mistakes_end_in_one_line(out, tmp_path, capsys):
    check_error(tmp_path, capsys, [], f"{tmp_path} is not the folder of a sweep")
    check_error(out, capsys, ["--csv=-", "--watch=1"], "csv is written once; leave watch out")
    check_error(out, capsys, ["--watch=0"], "--watch=0")
    check_error(out, capsys, [f"--csv={tmp_path}/no/file"], "cannot be written: No such file")


def test_watching_ends_when_all_are_done(out, monkeypatch, capsys):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        for index in range(len(waited) * 3):
            write(sweep.workdir(out, index) / "summary.json", json.dumps(SUMMARY))

    monkeypatch.setattr(time, "sleep", sleep)
    assert show(out, "--watch=7") == 0
    printed = capsys.readouterr().out
    assert waited == [7, 7]
    assert printed.startswith(TABLE) and printed.endswith("\n6 runs: 6 DONE\n")
    assert printed.count("6 runs: ") == 3 and "\x1b" not in printed


def test_watching_ends_with_ctrl_c(out, monkeypatch, capsys):
    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert show(out, "--watch=7") == 0
    assert capsys.readouterr() == (TABLE + "\n", "")


def test_on_a_terminal_the_table_is_shown_in_place(out):
    for index in range(len(FLAGS)):
        write(sweep.workdir(out, index) / "summary.json", "{}")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "launch.status", out, "--watch=1"]
    done = subprocess.run(command, stdout=theirs, cwd=pathlib.Path(__file__).parents[2])
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert shown.startswith("\x1b[H\x1b[2J0  DONE") and shown.endswith("6 runs: 6 DONE\r\n")
