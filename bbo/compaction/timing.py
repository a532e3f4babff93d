"""What a call takes, measured: functions called in turn, so that a busy machine slows all alike."""

import math
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo.types import Array, PyTree, require

MIN_REPEATS = 5
"""Calls that are measured even if they take too long: quartiles of fewer say nothing."""
SAMPLE_SECONDS = 0.2
"""Of a sample, at least: the clock of other processes ticks in hundredths."""
QUIET = 0.12
"""Cores that other processes may use during a sample that counts as quiet."""


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


class Sample(NamedTuple):
    """One measurement."""

    seconds: float
    """Of one call, on average over those of the sample."""
    others: float
    """Cores that other processes used meanwhile; NaN where the system does not tell."""


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

    >>> images = np.zeros((4, 8), np.float32)
    >>> latency = measure_latency(jax.numpy.matmul, images, images.T, seconds=0.01)
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

    >>> calls = {"add": lambda: np.ones(9) + 1, "sort": lambda: np.sort(np.ones(9))}
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


def sample_in_turn(
    loops: Mapping[str, Callable[[int], None]], *, seconds: float
) -> Iterator[tuple[str, Sample]]:
    """Measures several loops in turn, for hours if need be; the first samples are there at once.

    Args:
      loops: by name; ``loop(n)`` makes n calls and returns when their results are there. Each has
        been called before: what it compiles is compiled.
      seconds: how long is measured, for each on average; but each has at least ``MIN_REPEATS``
        samples, and all have equally many.

    Yields:
      name and sample; a sample is of as many calls as ``SAMPLE_SECONDS`` takes, after one that is
      not counted. Each round has a random order: what ran before leaves its traces in caches,
      memory and threads, and must not be the same for one loop each time.

    Raises:
      UsageError: there is no loop.
    """
    require(bool(loops), "loops", loops, "one or more loops by name")
    counts = {name: _calls_of_a_sample(loop) for name, loop in loops.items()}
    end, rounds, order = time.perf_counter() + seconds * len(loops), 0, random.Random(0)
    while rounds < MIN_REPEATS or time.perf_counter() < end:
        for name in order.sample(list(loops), len(loops)):
            loops[name](1)
            yield name, _sample(loops[name], counts[name])
        rounds += 1


def _calls_of_a_sample(loop: Callable[[int], None]) -> int:
    loop(1)
    return max(1, math.ceil(SAMPLE_SECONDS / _sample(loop, 1).seconds))


def _sample(loop: Callable[[int], None], calls: int) -> Sample:
    start, all_before, own_before = time.perf_counter(), _busy_seconds(), time.process_time()
    loop(calls)
    taken = time.perf_counter() - start
    own = time.process_time() - own_before
    others = max(0.0, _busy_seconds() - all_before - own)
    return Sample(taken / calls, others / taken)


def _busy_seconds() -> float:
    """Processor time of all processes since the machine was started; NaN if it does not tell."""
    try:
        first = pathlib.Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def quietest(samples: Sequence[Sample]) -> list[Sample]:
    """The quiet ones; or, of too few, the ``MIN_REPEATS`` during which others did least.

    >>> noisy, quiet = Sample(2.0, 1.5), Sample(1.0, 0.0)
    >>> len(quietest([noisy, quiet] * 9)), len(quietest([noisy] * 8 + [quiet]))
    (9, 5)
    """
    quiet = [sample for sample in samples if not sample.others > QUIET]
    if len(quiet) >= MIN_REPEATS:
        return quiet
    return sorted(samples, key=lambda sample: sample.others)[:MIN_REPEATS]


def ratio_in_turn(samples: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """How many times as long as another loop, of the same rounds: the median of the quietest.

    Args:
      samples: of each round, from ``sample_in_turn``.
      reference: of the other loop, as many.

    >>> slow, fast = [Sample(3.0, 0.0), Sample(6.0, 1.0)], [Sample(2.0, 0.0), Sample(4.0, 0.5)]
    >>> ratio_in_turn(slow, fast)
    1.5
    """
    rounds = [
        Sample(one.seconds / other.seconds, max(one.others, other.others))
        for one, other in zip(samples, reference, strict=True)
    ]
    return float(np.median([sample.seconds for sample in quietest(rounds)]))


Call = Callable[[Array], Any]
"""From images to logits, in any runtime."""


class Timed(NamedTuple):
    """A network whose cost is wanted."""

    function: Callable[[PyTree, Array], Array]
    """``function(variables, images)``."""
    variables: PyTree


def jax_call(network: Timed) -> Call:
    """Compiled, with its variables on the first device: on several it would run as often."""
    function = jax.jit(network.function)
    variables = jax.device_put(network.variables, jax.local_devices()[0])
    return lambda images: function(variables, images)


def onnx_call(path: pathlib.Path) -> Call:
    """A file of ``export.write_onnx`` in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": np.asarray(images)})[0]


def latencies(
    runtimes: Mapping[str, Mapping[str, Call]],
    images: Array,
    *,
    batch_sizes: Sequence[int],
    seconds: float,
) -> list[dict[str, Any]]:
    """Times of all networks in each runtime, called in turn: seconds for a batch.

    Args:
      runtimes: networks by name, by runtime.
      images: [n, h, w, c]; repeated for larger batches.
      batch_sizes: to measure.
      seconds: for each network and batch size.

    Returns:
      keys ``runtime``, ``network``, and those of ``timing.Latency``.
    """
    rows, images = [], jax.device_put(images, jax.local_devices()[0])
    for runtime, networks in runtimes.items():
        for batch_size in batch_sizes:
            batch = jnp.resize(images, (batch_size, *images.shape[1:]))
            calls = {name: _bound(call, batch) for name, call in networks.items()}
            found = compare_latencies(calls, batch_size=batch_size, seconds=seconds)
            rows += [
                {"runtime": runtime, "network": name, **latency._asdict()}
                for name, latency in found.items()
            ]
    return rows


def _bound(call: Call, batch: Array) -> Callable[[], Any]:
    return lambda: call(batch)
