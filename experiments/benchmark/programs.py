"""What training and pruning take, as programs that can be timed: on random images, no data needed.

Nothing here says what is fast: ``timing`` measures what this makes ready.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bbo.data.datasets import Dataset, Split
from bbo.pipeline import run as runs
from bbo.pipeline.curve import prune_network
from bbo.pipeline.run import Run, Trained, accuracy_on, set_up, variables_of
from bbo.pipeline.vmapped import create_step, stack_states, training_batches
from bbo.settings.config import ExperimentConfig, override
from bbo.training import preemption
from bbo.training.devices import AHEAD
from bbo.types import PyTree

BATCHES = 4
"""Of training images that steps go through in turn."""
PASSES = 3
"""A training step costs about as much as three forward passes."""


class Steps(NamedTuple):
    """A compiled training step, ready to be timed."""

    loop: Callable[[int], None]
    """``loop(n)`` makes n calls and waits for the last."""
    steps_per_call: int
    members: int
    """Runs that are trained as one program: a step is one of each."""
    flops: float
    """Of a step: two for each multiply-add of a forward pass, ``PASSES`` times."""
    compile_cold: float
    """Seconds to trace and compile, of which nothing was kept."""
    compile_warm: float
    """Seconds to trace and to find it in the persistent cache."""
    bytes_at_most: int
    """Memory that the program needs on a device, as its compiler says."""


def random_dataset(config: ExperimentConfig, *, train_images: int, test_images: int) -> Dataset:
    """Noise with random labels, of the shape of the dataset that the configuration names."""
    info, rng = config.data.info, np.random.default_rng(0)

    def split(count: int) -> Split:
        pixels = rng.integers(0, 256, (count, *info.image_shape), dtype=np.uint8)
        return Split(pixels, rng.integers(0, info.num_classes, count).astype(np.int32))

    held_out = np.zeros(train_images, bool)
    return Dataset(split(train_images), held_out, split(test_images), info)


def made_ready(config: ExperimentConfig, *, test_images: int = 1, like: Run | None = None) -> Run:
    """A run on random images, without validation: ``BATCHES`` calls of batches to train on.

    Args:
      config: all settings.
      test_images: to be evaluated.
      like: see ``run.set_up``.
    """
    config = override(config, validation_fraction=0.0, select="last")
    count = BATCHES * config.train.steps_per_call * config.train.batch_size
    dataset = random_dataset(config, train_images=count, test_images=test_images)
    return set_up(config, dataset=dataset, like=like)


def training_steps(run: Run, *others: Run) -> Steps:
    """Compiles the training step of a run, or of several as one program.

    Args:
      run: from ``made_ready``; its state stays as it is.
      *others: likewise; they differ in seed and rate alone.
    """
    if others:
        group = (run, *others)
        step, images, *rest = create_step(group)
        batches = list(training_batches(group, epoch=1))
        state = stack_states([one.state for one in group])
    else:
        step, images, rest = run.programs.train, run.images["train"], []
        batches = list(runs.training_batches(run, epoch=1))
        state = jax.tree.map(jax.numpy.copy, run.state)
    with _empty_cache():
        cold, compiled = _compiled(step, state, images, batches[0], *rest)
        warm, _ = _compiled(step, state, images, batches[0], *rest)
    held: list[Any] = [state]

    def loop(calls: int) -> None:
        # As many in flight as training has, and no more.
        metrics: list[PyTree] = []
        for number in range(calls):
            held[0], means = compiled(held[0], images, batches[number % BATCHES], *rest)
            metrics.append(means)
            jax.block_until_ready(metrics[-AHEAD:][0])
        jax.block_until_ready(held[0])

    images_per_step = run.config.train.batch_size * (1 + len(others))
    return Steps(
        loop=loop,
        steps_per_call=run.steps_per_call,
        members=1 + len(others),
        flops=2.0 * PASSES * sum(run.macs.values()) * images_per_step,
        compile_cold=cold,
        compile_warm=warm,
        bytes_at_most=_bytes_at_most(compiled),
    )


def _compiled(step: Any, *arguments: PyTree) -> tuple[float, Any]:
    """Seconds to trace and compile anew, and what came of it."""
    jax.clear_caches()
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    return time.perf_counter() - start, compiled


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
    """Within this context the persistent compilation cache is an empty one."""
    from jax.experimental.compilation_cache import compilation_cache

    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, value in zip(names, (folder, 0.0, -1), strict=True):
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def _bytes_at_most(compiled: Any) -> int:
    """Arguments, results and what is in between, less what is written over."""
    found = compiled.memory_analysis()
    used = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return used - found.alias_size_in_bytes


class CurveTime(NamedTuple):
    """A pruning curve beside as many evaluations of the network as it has points."""

    points: int
    curve: float
    """Seconds, with everything that a program of its own would have to compile."""
    evaluations: float
    """Seconds for one evaluation of the dense network, times the points."""


def curve_time(run: Run, points: int, folder: Any) -> CurveTime:
    """Times a pruning curve by filters, as pruned.

    Args:
      run: from ``made_ready``, with the test images to be evaluated.
      points: sparsities.
      folder: an empty one; the curve keeps its points there.
    """
    sparsities = tuple(float(share) for share in np.linspace(0, 0.95, points).round(4))
    config = override(
        run.config, sparsities=sparsities, granularity=("filter",), recovery=("none",)
    )
    run, poll = run._replace(config=config), preemption.poller(preemption.never)
    network = Trained(variables_of(run.state), np.int32(0), np.float32(0))
    accuracy_on(run, "test", network.variables, poll)  # compiles
    times = []
    for _ in range(2):
        start = time.perf_counter()
        accuracy_on(run, "test", network.variables, poll)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    prune_network(run, network, folder, poll)
    return CurveTime(points, time.perf_counter() - start, points * min(times))
