"""Being told to stop: by SIGTERM or Ctrl-C, on one process or agreed upon by all of many."""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from bbo.types import Interrupted, Preempted

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
    """Within this context SIGTERM and Ctrl-C no longer end the process, but are reported.

    A second Ctrl-C ends it at once, with status 130. In a distributed run jax listens itself; the
    first process that is told makes all of them stop at the same count, hence all have to ask, with
    the same counts.

    Args:
      distributed: ``jax.distributed`` is initialised.

    Raises:
      Interrupted: within the context ``Preempted`` was raised, after a Ctrl-C.
    """
    received: list[int] = []

    def hear(number: int, frame: object) -> None:
        del frame
        received.append(number)
        if distributed:
            os.kill(os.getpid(), signal.SIGTERM)  # which jax hears

    with _handled(hear, [signal.SIGINT] if distributed else [signal.SIGINT, signal.SIGTERM]):
        try:
            yield _sync_points() if distributed else lambda count: bool(received)
        except Preempted as stop:
            if signal.SIGINT in received:
                raise Interrupted(*stop.args) from None
            raise


@contextlib.contextmanager
def _handled(handler: Callable[[int, object], None], numbers: list[int]) -> Iterator[None]:
    """Within this context signals are handled, and a second Ctrl-C is obeyed at once.

    That by a thread: handlers wait until the main thread is back in Python, which a compilation
    keeps for minutes. Ctrl-C that is ignored, as after ``&`` in a script, stays ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    thread = threading.Thread(target=_listen, args=(reading,), daemon=True)
    thread.start()
    heard = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    former = {}
    for number in numbers:
        if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(heard)
        os.close(writing)
        thread.join()


def _listen(reading: int) -> None:
    """Reads the numbers of signals until the other end is closed."""
    interrupts = 0
    with open(reading, "rb", buffering=0) as signals:
        while number := signals.read(1):
            interrupts += number[0] == signal.SIGINT
            if number[0] == signal.SIGINT and interrupts == 1:
                print("\nfinishing the step; Ctrl-C again leaves at once", file=sys.stderr)
            elif number[0] == signal.SIGINT:
                os._exit(128 + signal.SIGINT)


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
