"""Polls count work and raise when it is time to stop; SIGTERM is reported, for a while."""

import os
import signal

import pytest

from bbo.training import preemption
from bbo.types import Preempted


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
