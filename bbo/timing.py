"""What a call takes, measured: functions called in turn, so that a busy machine slows all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bbo.types import PyTree, require

MIN_REPEATS = 5
"""Calls that are measured even if they take too long: quartiles of fewer say nothing."""


class Latency(NamedTuple):
    """How long a call takes."""

    batch_size: int
    """Examples in one call."""
    median: float
    """In seconds, of one call."""
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    repeats: int
    """How many calls were measured."""


def measure_latency(
    function: Callable[..., PyTree],
    variables: PyTree,
    *inputs: PyTree,
    seconds: float = 1.0,
    warm_up: int = 3,
) -> Latency:
    """Time of ``function(variables, *inputs)``, compiled, with its arguments on the device.

    Args:
      function: any function that jax can compile.
      variables: its parameters.
      *inputs: a batch: arrays [n, ...].
      seconds: see ``compare_latencies``, here and for ``warm_up``.
      warm_up: see there.

    Raises:
      UsageError: the inputs have no batch.

    >>> images = jnp.zeros((4, 8))
    >>> latency = measure_latency(jnp.matmul, images, images.T, seconds=0.01)
    >>> latency.batch_size, latency.repeats >= 5, 0 < latency.low <= latency.median <= latency.high
    (8, True, True)
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    batches = [shape[0] for shape in shapes if shape]
    require(bool(batches), "inputs", shapes, "arrays [n, ...]")
    compiled = jax.jit(function)
    arguments = jax.device_put((variables, *inputs))
    call = {"": lambda: compiled(*arguments)}
    return compare_latencies(call, batch_size=batches[0], seconds=seconds, warm_up=warm_up)[""]


def compare_latencies(
    functions: Mapping[str, Callable[[], Any]],
    *,
    batch_size: int,
    seconds: float = 1.0,
    warm_up: int = 3,
) -> dict[str, Latency]:
    """Time of several functions, called in turn, so that a busy machine slows all of them alike.

    Each call is over when its result is there (``jax.block_until_ready``).

    Args:
      functions: what to call, by name; results of other libraries than jax will do.
      batch_size: examples in one call of any of them.
      seconds: how long is measured, for each function on average; but each is called at least
        ``MIN_REPEATS`` times, and all are called equally often.
      warm_up: calls of each that are not measured, besides the first one, which may compile.

    Raises:
      UsageError: there is no function.

    >>> calls = {"add": lambda: jnp.ones(9) + 1, "sort": lambda: jnp.sort(jnp.ones(9))}
    >>> latencies = compare_latencies(calls, batch_size=1, seconds=0.01)
    >>> list(latencies), latencies["add"].repeats == latencies["sort"].repeats
    (['add', 'sort'], True)
    """
    require(bool(functions), "functions", functions, "one or more functions by name")
    for _ in range(1 + warm_up):
        for function in functions.values():
            jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    end, rounds = time.perf_counter() + seconds * len(functions), 0
    while rounds < MIN_REPEATS or time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: _summary(batch_size, taken) for name, taken in times.items()}


def _summary(batch_size: int, times: list[float]) -> Latency:
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return Latency(batch_size, median, low, high, len(times))
