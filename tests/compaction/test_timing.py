"""Latency, by a clock of our own."""

import functools
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bbo.compaction import timing
from bbo.types import UsageError


class Clock:
    """A clock that stands still but for what is called, and what its results take."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def perf_counter(self):
        return self.now

    def function(self, name, *, call=0.0, result=0.0):
        """What call number i takes: ``call + i * result``, the second part after it returned."""

        def function():
            self.calls.append(name)
            self.now += call
            later = types.SimpleNamespace(block_until_ready=wait)
            return {"logits": later}

        def wait():
            self.now += result * self.calls.count(name)

        return function


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_latencies_are_measured_in_turn(clock):
    functions = {"quick": clock.function("quick", call=1), "slow": clock.function("slow", call=3)}
    found = timing.compare_latencies(functions, batch_size=8, seconds=20, warm_up=2)
    # 2 x 20 seconds hold ten rounds of four.
    assert clock.calls == ["quick", "slow"] * (1 + 2 + 10)
    assert found == {"quick": (8, 1, 1, 1, 10), "slow": (8, 3, 3, 3, 10)}


def test_latency_is_that_of_the_result_and_has_quartiles(clock):
    functions = {"one": clock.function("one", call=10, result=1)}
    found = timing.compare_latencies(functions, batch_size=1, seconds=0.1, warm_up=0)
    # Of the calls 2 to 6, because the first is never measured, and at least five are.
    assert found == {"one": timing.Latency(1, median=14, low=13, high=15, repeats=5)}


def test_latency_of_a_compiled_function():
    traced = []

    def network(weights, x, *, scale=2.0):
        traced.append(x.shape)
        return x @ weights * scale

    latency = timing.measure_latency(network, np.eye(8), np.ones((3, 8)), seconds=0.02)
    assert traced == [(3, 8)]
    assert latency.batch_size == 3 and latency.repeats >= 5
    assert 0 < latency.low <= latency.median <= latency.high


def test_latency_of_nothing():
    with pytest.raises(UsageError, match=r"inputs is \[\(\)\]; it must be arrays \[n, ...\]"):
        timing.measure_latency(jnp.multiply, 1.0, 2.0)
    with pytest.raises(UsageError, match="functions is {}; it must be one or more"):
        timing.compare_latencies({}, batch_size=1)


def test_loops_are_sampled_in_an_order_of_its_own_in_each_round():
    called = []
    loops = {name: functools.partial(lambda name, n: called.append(name), name) for name in "abc"}
    samples = [name for name, _ in timing.sample_in_turn(loops, seconds=0)]
    rounds = [samples[i : i + 3] for i in range(0, len(samples), 3)]
    assert len(rounds) >= timing.MIN_REPEATS
    assert (
        all(sorted(names) == list("abc") for names in rounds) and len(set(map(tuple, rounds))) > 1
    )
