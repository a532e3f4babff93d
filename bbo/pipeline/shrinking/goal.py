"""How far a network is to shrink, and the sparsities that take it there."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bbo.compaction.timing import Call, Timed, jax_call, latencies
from bbo.types import Array, UsageError, require

STEPS = {"macs": 256, "params": 256, "latency": 16}
"""Sparsities are multiples of one over that; each that is timed has a network compiled."""
LUCK = 1.25
"""How many times faster another network may be than the smallest one, as backends go."""
MARGIN = 1.1
"""On a time that was measured, so that it is likely to be reached when it is measured again."""


class Goal(NamedTuple):
    """How far to go."""

    measure: str
    """``sparsity``: the share of the filters to remove; ``macs``, ``params`` or ``latency``: the
    largest share of the multiply-adds, of the parameters or of the measured time to keep, by the
    smallest sparsity that does."""
    share: float
    batch_size: int = 64
    """Images of which the time is measured."""
    seconds: float = 1.0
    """How long each network is called at each measurement of ``latency``."""


def sparsities_for(target: Goal, left_at: Callable[[float], float]) -> Iterator[float]:
    """The sparsities that do what a target asks for, as far as ``left_at`` tells.

    What is counted falls with the sparsity: bisection finds the one that is the smallest. Time need
    not: a backend may be slower at some widths than at larger ones. It is measured from the
    smallest sparsity on, at each asked for: those that do, in order, of which the first ones may
    have been lucky. Before that the smallest network is measured: where even that is far from
    enough, the others need not be.

    Args:
      target: see there.
      left_at: from a sparsity to the share that it leaves; not called for ``sparsity``.

    Raises:
      UsageError: the target is out of range or out of reach; the message says what is not.

    >>> list(sparsities_for(Goal("macs", 0.25), lambda sparsity: (1 - sparsity) ** 2))
    [0.5]
    >>> list(sparsities_for(Goal("latency", 0.1), lambda sparsity: 1 - sparsity))
    [0.9375]
    """
    measure, share = target.measure, target.share
    if measure == "sparsity":
        require(0 <= share < 1, measure, share, "in [0, 1)")
        yield share
        return
    require(0 < share <= 1, measure, share, "in (0, 1]")
    steps = STEPS[measure]
    low, high = 0, steps - 1
    least = left_at(high / steps)
    if least > share * (LUCK if measure == "latency" else 1):
        raise out_of_reach(target, least)
    if measure == "latency":
        every = (number / steps for number in range(steps))
        yield from (sparsity for sparsity in every if left_at(sparsity) <= share)
        return
    while low < high:
        middle = (low + high) // 2
        enough = left_at(middle / steps) <= share
        low, high = (low, middle) if enough else (middle + 1, high)
    yield low / steps


def out_of_reach(target: Goal, least: float) -> UsageError:
    """The error that says so, the least that was found, and what to ask for.

    >>> print(out_of_reach(Goal("latency", 0.5), 0.62))
    latency is 0.5; pruning can leave no less than 0.62 at a batch of 64; ask for 0.69 or more
    """
    timed = target.measure == "latency"
    told = f"{target.measure} is {target.share:g}; pruning can leave no less than {least:.3g}"
    told += f" at a batch of {target.batch_size}" * timed
    offer = math.ceil(1000 * least) / 1000 if not timed else math.ceil(100 * least * MARGIN) / 100
    if offer >= 1:
        return UsageError(f"{told}; take another batch size or a larger network")
    return UsageError(f"{told}; ask for {offer:g} or more")


def share_of_time(dense: Call, network: Timed, images: Array, target: Goal) -> float:
    """The median time of a network in jax, as a share of that of another: called in turn.

    Args:
      dense: the other one, compiled, see ``timing.jax_call``.
      network: compiled here.
      images: [n, h, w, c]; repeated if the batch is larger.
      target: of which the batch size and the seconds are taken.
    """
    calls = {"dense": dense, "compact": jax_call(network)}
    options: dict[str, Any] = {"batch_sizes": [target.batch_size], "seconds": target.seconds}
    before, after = latencies({"jax": calls}, images[: target.batch_size], **options)
    return after["median"] / before["median"]
