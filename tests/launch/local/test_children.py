"""Stopping a sweep: nothing lost, nothing done twice, nothing left running."""

import os
import signal
import threading

import pytest
from launching import (
    PATIENCE,
    ctrl_c,
    end,
    holds,
    launch,
    launcher,
    lines,
    prepare,
    wait_for,
    write_spec,
)

from launch import logs, sweep
from launch.local import children
from launch.local import program as local


@pytest.fixture
def out(tmp_path, monkeypatch):
    yield from prepare(tmp_path, monkeypatch)


def test_ctrl_c_and_the_same_command_again(out):
    write_spec(out, *({"seed": seed, "steps": 5, "hold": 1 + seed} for seed in range(3)))
    process = launcher(out, "--parallel=2")
    wait_for(lambda: holds(out, 0, 1))
    assert logs.is_running(out, 0) and logs.is_running(out, 1) and not logs.is_running(out, 2)
    ctrl_c(process)
    code, told = end(process)
    assert code == 130
    assert "stopping 0, 1, which save first; Ctrl-C kills them\n" in told
    assert "of 3 runs: 2 stopped, 1 not started\n" in told
    assert f"  run 1 stopped: {out}/logs/0001.log\n" in told
    assert told.endswith("run the same command again to go on with what is not done\n")
    assert not logs.is_running(out, 0) and not logs.is_running(out, 1)
    assert [lines(out, index, "steps") for index in range(3)] == [[0], [0, 1], []]
    (out / "go").touch()
    assert launch(out, "--parallel=2") == 0
    assert [lines(out, index, "steps") for index in range(3)] == [[0, 1, 2, 3, 4]] * 3
    starts = [lines(out, index, "starts") for index in range(3)]
    assert [len(attempts) for attempts in starts] == [2, 2, 1]
    assert starts[0][0]["reads_nothing"]  # and leaves what is typed to the launcher


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop(out, number):
    write_spec(out, {"hold": 1})
    process = launcher(out)
    wait_for(lambda: holds(out, 0))
    process.send_signal(number)
    code, told = end(process)
    assert code == 75 and "1 stopped" in told
    assert lines(out, 0, "steps") == [0] and (out / "0000/saved").read_text() == "1"


def test_a_second_ctrl_c_kills_all_that_the_runs_have_started(out):
    write_spec(out, {"hold": 1, "deaf": True})
    process = launcher(out)
    wait_for(lambda: holds(out, 0))
    ctrl_c(process)
    for line in process.stderr:
        if line.startswith("stopping"):
            break
    assert logs.is_running(out, 0)
    ctrl_c(process)
    code, told = end(process)
    assert code == 130 and "1 stopped" in told
    wait_for(lambda: not logs.is_running(out, 0))  # its own child would hold the lock, too


def test_two_ctrl_c_before_the_launcher_looks_are_two(out, monkeypatch):
    write_spec(out, {"hold": 1, "deaf": True})

    def hit_twice(*_):
        if holds(out, 0):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(local, "show_progress", hit_twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    late = threading.Timer(PATIENCE, lambda: (out / "go").touch())  # lest this waits for ever
    late.start()
    try:
        assert launch(out) == 130
    finally:
        late.cancel()
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: not logs.is_running(out, 0))
    assert lines(out, 0, "steps") == [0] and not (out / "go").exists()


def test_runs_outlive_a_killed_launcher_and_are_left_alone(out, capfd):
    write_spec(out, {"hold": 1}, {"steps": 2})
    process = launcher(out)
    wait_for(lambda: holds(out, 0))
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    assert logs.is_running(out, 0)
    assert launch(out) == 1
    told = capfd.readouterr().err
    assert "run 0 is left out: it is running already\n" in told
    assert "of 2 runs: 1 left out, 1 done\n" in told
    (out / "go").touch()
    wait_for(lambda: not logs.is_running(out, 0))
    assert launch(out) == 0
    assert [len(lines(out, index, "starts")) for index in range(2)] == [1, 1]
    assert lines(out, 0, "steps") == [0, 1, 2]


def test_a_run_is_not_started_if_another_launcher_was_faster(out):
    run = sweep.Run("held_run", {})
    (out / "logs").mkdir(parents=True)
    with logs.open_locked(out, 0):
        assert children.start(out, 0, run, None) is None
    (out / "0001").mkdir()
    (out / "0001/summary.json").touch()
    assert children.start(out, 1, run, None) is None
    assert not logs.is_running(out, 1) and not (out / "0000").exists()


def test_signals_are_recorded_and_what_is_ignored_stays_so():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    term = signal.getsignal(signal.SIGTERM)
    try:
        with children.recorded_signals() as signals:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
                os.kill(os.getpid(), number)
        assert signals == [signal.SIGTERM, signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is term
    finally:
        signal.signal(signal.SIGHUP, former)


def test_an_error_of_the_launcher_leaves_nothing_running(out, monkeypatch):
    write_spec(out, {"hold": 1})

    def fail(*_):
        wait_for(lambda: holds(out, 0))
        raise MemoryError

    monkeypatch.setattr(local, "show_progress", fail)
    with pytest.raises(MemoryError):
        launch(out)
    assert not logs.is_running(out, 0) and (out / "0000/saved").read_text() == "1"
