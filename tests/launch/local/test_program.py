"""Runs on this machine: all of them, each once, as many at a time as asked for."""

import shlex
import sys

import pytest
from launching import launch, lines, prepare, write_spec
from mistakes import check_told

from bbo.types import UsageError
from experiments.command_line.program import parse
from launch import logs, sweep
from launch.local import program as local
from launch.slurm import squeue


@pytest.fixture
def out(tmp_path, monkeypatch):
    yield from prepare(tmp_path, monkeypatch)


def most_at_once(intervals):
    """The largest number of intervals that have a moment in common."""
    return max(sum(a <= start < b for a, b in intervals) for start, _ in intervals)


def interval(out, index):
    (start,), (stop,) = lines(out, index, "starts"), lines(out, index, "ended")
    return start["time"], stop


def test_all_runs_are_done_as_many_at_a_time_as_asked_for(out, capfd):
    write_spec(out, *({"seed": seed, "meet": meet} for seed, meet in enumerate([2, 2, 4, 4, 5])))
    assert launch(out, "--parallel=2") == 0
    assert all(lines(out, index, "steps") == [0, 1, 2] for index in range(5))
    assert most_at_once([interval(out, index) for index in range(5)]) == 2
    printed, told = capfd.readouterr()
    assert printed == ""
    assert told.splitlines()[0] == "run 0 started: seed=0,meet=2"
    assert told.splitlines()[-1] == "of 5 runs: 5 done"
    assert "\x1b" not in told  # nothing is drawn where nobody watches
    assert launch(out) == 0
    assert capfd.readouterr().err == "of 5 runs: 5 done\n"
    assert all(len(lines(out, index, "starts")) == 1 for index in range(5))


def test_one_at_a_time_unless_asked(out):
    write_spec(out, {"seed": 0}, {"seed": 1}, {"seed": 2})
    assert launch(out) == 0
    assert most_at_once([interval(out, index) for index in range(3)]) == 1


def test_a_log_says_what_ran_and_what_it_said(out):
    write_spec(out, {"steps": 2})
    assert launch(out) == 0
    command = f"{shlex.quote(sys.executable)} -m bbo held_run --workdir={out}/0000 --steps=2"
    assert logs.log_path(out, 0).read_bytes().decode() == f"$ {command}\n\rstep 1/2\rstep 2/2"


def test_a_run_that_fails_does_not_stop_the_others(out, capfd):
    ends = ["fail", "nothing", "kill", "75", "done"]
    write_spec(out, *({"end": end} for end in ends))
    assert launch(out, "--parallel=3") == 1
    told = capfd.readouterr().err
    log = f"the end of {out}/logs"
    for start in (
        "run 0 failed with exit status 1 after 0:00:0",
        "run 1 ended without a summary.json after 0:00:0",
        "run 2 was killed by signal 9 after 0:00:0",
        "run 3 stopped after 0:00:0",
        "run 4 done in 0:00:0",
    ):
        assert f"\n{start}" in told
    assert f"{log}/0000.log:\n    " in told
    assert "\n    ArithmeticError: the loss is no number\n" in told
    assert "of 5 runs: 3 failed, 1 stopped, 1 done\n" in told
    assert [len(lines(out, index, "starts")) for index in range(5)] == [1] * 5


def test_only_the_last_attempt_is_quoted(out, capfd):
    write_spec(out, {"end": "nothing", "steps": 1})
    log = logs.log_path(out, 0)
    for _ in range(2):
        assert launch(out) == 1
        assert f"; the end of {log}:\n    step 1/1\nof 1 runs: " in capfd.readouterr().err
    assert log.read_text().count("$ ") == 2


def queue(monkeypatch, *answers):
    """Lets SLURM answer so; the last answer stays."""
    left = list(answers)

    def queued(out):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return {index: squeue.Job("PENDING", "0:00", "(Priority)") for index in answer}

    monkeypatch.setattr(squeue, "queued", queued)


def test_what_waits_in_the_queue_is_left_out(out, monkeypatch, capfd):
    queue(monkeypatch, [1])
    write_spec(out, {"seed": 0}, {"seed": 1}, {"seed": 2})
    assert launch(out) == 1
    told = capfd.readouterr().err
    assert "run 1 is left out: it is in the SLURM queue\n" in told
    assert "of 3 runs: 2 done, 1 left out\n" in told
    assert not (out / "0001").exists() and not logs.log_path(out, 1).exists()


def test_without_an_answer_about_the_queue_nothing_is_started(out, monkeypatch, capfd):
    write_spec(out, {"seed": 0})
    queue(monkeypatch, UsageError("squeue is not found"))
    assert launch(out) == 2
    told = capfd.readouterr().err
    assert f"{out}/jobs says that runs were given to SLURM, but squeue is not found; " in told
    assert not out.exists()
    queue(monkeypatch, [], UsageError("squeue fails"))
    assert launch(out) == 1
    assert "run 0 is left out: it may be in the SLURM queue: squeue fails" in capfd.readouterr().err
    assert not (out / "0000").exists()


def test_each_run_has_a_gpu_to_itself(out):
    # By pairs that are there at the same time.
    write_spec(out, *({"seed": seed, "meet": seed // 2 * 2 + 2} for seed in range(6)))
    assert launch(out, "--gpus=5,GPU-7") == 0
    by_gpu = {}
    for index in range(6):
        gpu = lines(out, index, "starts")[0]["gpu"]
        by_gpu.setdefault(gpu, []).append(interval(out, index))
    assert set(by_gpu) == {"5", "GPU-7"}
    assert [most_at_once(intervals) for intervals in by_gpu.values()] == [1, 1]
    log = logs.log_path(out, 0).read_text()
    assert log.startswith("$ CUDA_VISIBLE_DEVICES=5 ")


@pytest.mark.parametrize(
    "argv, gpus",
    [
        ([], [None]),
        (["--parallel=3"], [None, None, None]),
        (["--gpus=2,0"], ["2", "0"]),
        (["--gpus=2,0,1", "--parallel=2"], ["2", "0"]),
    ],
)
def test_places(argv, gpus):
    parse(local.FLAGS, ["local", *argv])
    assert local.places(local.FLAGS) == gpus


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--gpus=0,1", "--parallel=3"], "parallel is 3, but gpus names 2"),
        (["--gpus="], "gpus is ''; it must name each GPU once, as in 0,1"),
        (["--gpus=0,"], "gpus is '0,'"),
        (["--gpus=1,1"], "gpus is '1,1'"),
        (["--parallel=0"], "--parallel=0"),
        (["--parallel=many"], "--parallel=many"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(out, capfd, argv, message):
    write_spec(out, {})
    assert launch(out, *argv) == 2
    check_told(capfd, message)
    assert not out.exists()


def test_a_place_that_cannot_be_written(out, capfd):
    write_spec(out, {})
    out.mkdir()
    (out / "logs").write_text("a file")
    assert launch(out) == 2
    assert (
        capfd.readouterr().err
        == f"error: {out}/logs cannot be made: File exists; name another folder\n"
    )
    assert [path.name for path in out.iterdir()] == ["logs"]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_dry_run_prints_the_commands_and_writes_nothing(out, monkeypatch, capfd):
    write_spec(out, {"seed": 0, "deaf": True}, {"seed": 1}, {"seed": 2}, {"seed": 3})
    start = f"{shlex.quote(sys.executable)} -m bbo held_run --workdir={out}"
    assert launch(out, "--dry_run") == 0
    printed, told = capfd.readouterr()
    first, *others = (f"{start}/000{i} --seed={i}" for i in range(4))
    assert printed.splitlines() == [f"{first} --deaf", *others] and told == ""
    assert not out.exists()

    sweep.freeze(out.parent / "spec.py", out)
    (out / "logs").mkdir()
    (out / "0000").mkdir()
    (out / "0000/summary.json").touch()
    queue(monkeypatch, [1])
    before = files(out)
    with logs.open_locked(out, 2):
        assert launch(out, "--dry_run", "--gpus=3") == 0
        logs.log_path(out, 2).unlink()
    printed, told = capfd.readouterr()
    assert printed == f"CUDA_VISIBLE_DEVICES=3 {start}/0003 --seed=3\n"
    assert told.splitlines() == [
        "run 1 would be left out: it is in the SLURM queue",
        "run 2 would be left out: it is running already",
    ]
    assert files(out).keys() == before.keys()

    assert launch(out, "--dry_run", "--gpus=3,4") == 0
    printed, told = capfd.readouterr()
    assert printed.splitlines() == [f"{start}/0002 --seed=2", f"{start}/0003 --seed=3"]
    assert "CUDA_VISIBLE_DEVICES of each would be the one of 3,4 that is free\n" in told
