"""Being told to stop: by SIGTERM, on one process or agreed upon by all of a distributed run."""

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from bbo.types import Preempted

ShouldStop = Callable[[int], bool]
"""Asked with the number of units of work done, which grows by one each time."""
Poll = Callable[[], int]
"""Counts one more unit of work and gives the count; raises ``Preempted`` if it is time to stop."""
Item = TypeVar("Item")


def never(count: int) -> bool:
    """Nobody will tell this run to stop."""
    del count
    return False


@contextlib.contextmanager
def watch(*, distributed: bool) -> Iterator[ShouldStop]:
    """Within this context SIGTERM no longer ends the process, but is reported.

    In a distributed run jax listens itself; the first process that is told makes all of them stop
    at the same count, hence all have to ask, with the same counts.

    Args:
      distributed: ``jax.distributed`` is initialised.
    """
    if distributed:
        yield _sync_points()
        return
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield lambda count: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


def _sync_points() -> ShouldStop:
    """Asks jax for every count from 1 on.

    The count at which all are to stop is one more than the largest that any process has asked
    for when one is told; jax reports it to who asks for exactly that. A run that goes on begins
    with a large count, and may have been told before.
    """
    from jax.experimental import multihost_utils

    asked = itertools.count(1)

    def should_stop(count: int) -> bool:
        numbers = itertools.takewhile(lambda number: number < count, asked)
        # The last one, ``count`` itself, is what ended takewhile.
        before = [multihost_utils.reached_preemption_sync_point(number) for number in numbers]
        return any([*before, multihost_utils.reached_preemption_sync_point(count)])

    return should_stop


def poller(should_stop: ShouldStop, start: int = 0) -> Poll:
    """A poll whose first count is ``start + 1``."""
    counter = itertools.count(start + 1)

    def poll() -> int:
        count = next(counter)
        if should_stop(count):
            raise Preempted(count)
        return count

    return poll


def polled(items: Iterable[Item], poll: Poll) -> Iterator[Item]:
    """The items, with a poll before each."""
    for item in items:
        poll()
        yield item
