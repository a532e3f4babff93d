"""How far a network is to shrink, and how many channels of each group that takes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bbo import trees
from bbo.pruning.shrinking.arguments import check_share
from bbo.pruning.units import Described, Units, Whole
from bbo.types import Array, UsageError, require

STEPS = 256
"""Shares of channels that are tried for a share of costs are multiples of one over that."""


class Goal(NamedTuple):
    """How far."""

    measure: str
    """``keep``, ``macs`` or ``params``."""
    share: float | Mapping[str, float]


class Limits(NamedTuple):
    """What holds whatever the goal."""

    scope: str
    at_least: float
    round_to: int


def goal_of(
    keep: float | Mapping[str, float] | None, macs: float | None, params: float | None
) -> Goal:
    """The one that is given.

    Raises:
      UsageError: none, several, or a share out of range.
    """
    given = {
        name: value
        for name, value in {"keep": keep, "macs": macs, "params": params}.items()
        if value is not None
    }
    if len(given) != 1:
        raise UsageError(
            f"{' and '.join(given) or 'none'} of keep, macs and params is given; give one, for "
            "instance keep=0.5"
        )
    ((measure, share),) = given.items()
    check_share(measure, share)
    return Goal(measure, share)


def not_ignored(described: Described, ignore: Sequence[str]) -> Described:
    """Without the groups that have an array of which a pattern is found in the name.

    Raises:
      UsageError: a pattern matches nothing.
    """
    units, ignored = described.units, {}
    for pattern in map(trees.compile_pattern, ignore):
        hits = {name for name, own in units.items() if any(map(pattern.search, _names(own)))}
        if not hits and not any(map(pattern.search, described.staying)):
            names = ", ".join(units) or "the arrays whose channels can be removed"
            raise UsageError(f"ignore has {pattern.pattern!r}, which matches none of {names}")
        ignored |= {name: Whole(units[name].size, "it is ignored") for name in hits}
    kept = {name: own for name, own in units.items() if name not in ignored}
    return Described(kept, described.staying | ignored)


def reached(
    goal: Goal,
    left_at: Callable[[Mapping[str, int]], float],
    units: Mapping[str, Units],
    scored: Mapping[str, Array],
    limits: Limits,
) -> dict[str, int]:
    """How many channels of each group have to go, the fewest that reach the goal.

    Args:
      goal: how far.
      left_at: from how many go to the share of the costs that is left; not called for ``keep``.
      units: of the network.
      scored: [channels] by their names.
      limits: see there.

    Raises:
      UsageError: the goal is out of reach.
    """
    one = not isinstance(goal.share, Mapping)
    require(one or limits.scope == "group", "keep", goal.share, "one number, as all compete")
    if isinstance(goal.share, Mapping) or goal.measure == "keep":
        return _counts(_kept_shares(goal.share, units), scored, limits)

    def counts_at(step: int) -> dict[str, int]:
        return _counts(dict.fromkeys(units, 1 - step / STEPS), scored, limits)

    low, high = 0, STEPS
    least = left_at(counts_at(high))
    if least > goal.share:
        raise UsageError(
            f"{goal.measure} is {goal.share:g}; removing can leave no less than {least:.3g}"
        )
    while low < high:
        middle = (low + high) // 2
        enough = left_at(counts_at(middle)) <= goal.share
        low, high = (low, middle) if enough else (middle + 1, high)
    return counts_at(low)


def _kept_shares(keep: float | Mapping[str, float], units: Mapping[str, Units]) -> dict[str, float]:
    """The share to keep of each group."""
    if not isinstance(keep, Mapping):
        return dict.fromkeys(units, keep)
    shares = dict.fromkeys(units, 1.0)
    by: dict[str, str] = {}
    for pattern, share in keep.items():
        search = trees.compile_pattern(pattern).search
        matched = [name for name, own in units.items() if any(map(search, _names(own)))]
        if not matched:
            raise UsageError(f"keep has {pattern!r}, which matches none of {', '.join(units)}")
        for name in matched:
            if name in by and keep[by[name]] != share:
                raise UsageError(
                    f"keep says {keep[by[name]]:g} ({by[name]!r}) and {share:g} ({pattern!r}) of "
                    f"{name}; make the patterns exclude each other"
                )
            by[name], shares[name] = pattern, share
    return shares


def _counts(
    shares: Mapping[str, float], scored: Mapping[str, Array], limits: Limits
) -> dict[str, int]:
    """How many channels of each group to drop, from the share of each that is kept."""
    sizes = {name: len(values) for name, values in scored.items()}
    kept = {name: _part(size, shares[name]) for name, size in sizes.items()}
    if limits.scope == "global":
        (share,) = set(shares.values())
        kept = _kept_of_all(scored, share)
    counts = {}
    for name, size in sizes.items():
        stay = max(kept[name], 1, _part(size, limits.at_least))
        stay = -(-stay // limits.round_to) * limits.round_to
        counts[name] = max(0, size - stay)
    return counts


def _part(size: int, share: float) -> int:
    """Rounded up, but for what rounding has added.

    >>> _part(10, 0.7), _part(10, 0.71), _part(10, 0.1 + 0.2)
    (7, 8, 3)
    """
    return math.ceil(round(size * share, 9))


def _kept_of_all(scored: Mapping[str, Array], share: float) -> dict[str, int]:
    """How many of each group are among the highest share of all."""
    every = np.concatenate([np.asarray(values) for values in scored.values()])
    dropped = len(every) - _part(len(every), share)
    highest = np.argsort(every, kind="stable")[dropped:]
    bounds = np.cumsum([0, *map(len, scored.values())])
    counted = np.histogram(highest, bounds)[0]
    return dict(zip(scored, counted.tolist(), strict=True))


def _names(own: Units) -> list[str]:
    return sorted({name for name, _ in (*own.kernels, *own.dying)})
