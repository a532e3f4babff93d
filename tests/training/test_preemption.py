"""Polls count work and raise when it is time to stop; SIGTERM is reported, for a while."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bbo.training import preemption
from bbo.types import Interrupted, Preempted


def test_polls_count_on_and_stop_with_the_count():
    asked = []
    poll = preemption.poller(lambda count: asked.append(count) or count == 13, start=10)
    assert [poll(), poll()] == [11, 12]
    with pytest.raises(Preempted) as stop:
        poll()
    assert stop.value.args == (13,) and asked == [11, 12, 13]


def test_each_item_is_preceded_by_a_poll():
    poll = preemption.poller(lambda count: count == 3)
    taken = []
    with pytest.raises(Preempted):
        for item in preemption.polled("abcd", poll):
            taken.append(item)
    assert taken == ["a", "b"]


def test_nobody_stops_by_default():
    poll = preemption.poller(preemption.never)
    assert [poll() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_signal_is_reported_within_the_context_only():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("outside"))
    try:
        with preemption.watch(distributed=False) as should_stop:
            assert not should_stop(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert should_stop(2) and should_stop(3) and not seen
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["outside"]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def interruptible():
    """Ctrl-C reaches this process: what a shell has started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_told_apart(interruptible, capfd):
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    with pytest.raises(Interrupted) as stop, preemption.watch(distributed=False) as should_stop:
        poll = preemption.poller(should_stop, start=4)
        assert poll() == 5
        os.kill(os.getpid(), signal.SIGINT)
        poll()
    assert stop.value.args == (6,)
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)) == before
    assert capfd.readouterr().err == "\nfinishing the step; Ctrl-C again leaves at once\n"
    with pytest.raises(Preempted) as stop, preemption.watch(distributed=False) as should_stop:
        os.kill(os.getpid(), signal.SIGTERM)
        preemption.poller(should_stop)()
    assert type(stop.value) is Preempted


IN_C = """
import hashlib, signal
from bbo.training import preemption
signal.signal(signal.SIGINT, signal.default_int_handler)
with preemption.watch(distributed=False):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"", b"", 100_000_000)
"""


def test_a_second_ctrl_c_ends_what_does_not_come_back_to_python():
    process = subprocess.Popen(
        [sys.executable, "-c", IN_C],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline() + process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and time.monotonic() - began < 10
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
