"""The points of a pruning curve: a network pruned, mended and measured at every intensity."""

import collections
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from bbo.pruning import Pruner
from bbo.settings.pruning_sections import PruningConfig
from bbo.training.evaluation import CLASS
from bbo.types import Preempted, PyTree, RunError, UsageError

Point = tuple[str, float, str]
"""Granularity, sparsity and recovery: what a row of a curve measures."""


def points_of(config: PruningConfig) -> list[Point]:
    """All points of a curve, in the order of its rows."""
    return list(itertools.product(config.granularity, config.sparsities, config.recovery))


def settings_at(config: PruningConfig, point: Point) -> dict[str, Any]:
    """The columns that tell what a row measures."""
    granularity, sparsity, recovery = point
    return {
        "criterion": config.criterion,
        "granularity": granularity,
        "scope": config.scope,
        "meaning": config.meaning,
        "recovery": recovery,
        "sparsity": sparsity,
    }


class CurveTools(NamedTuple):
    """What a pruning curve needs from its caller."""

    prepare: Callable[[str], Pruner]
    """The network scored and ranked, by granularity."""
    mend: Callable[[str, PyTree], PyTree]
    """``(recovery, variables of a pruned network) -> mended ones``."""
    evaluate: Callable[[PyTree], dict[str, float]]
    """Variables to measured numbers, which become columns."""
    macs: Mapping[str, int]
    """Multiply-adds by kernel name."""
    compact: Callable[[PyTree], dict[str, float]] = lambda variables: {}
    """Variables of a pruned network to what it costs without its dead channels: more columns."""


def pruning_curve(
    variables: PyTree,
    config: PruningConfig,
    tools: CurveTools,
    *,
    points: Sequence[Point] | None = None,
) -> Iterator[dict[str, Any]]:
    """Prunes and evaluates at every sparsity: one row for each granularity, sparsity and recovery.

    All sparsities of a granularity go through one compiled program; ranks are computed once.

    Args:
      variables: ``params`` and ``batch_stats`` of the trained network.
      config: what to prune, and how.
      tools: see there.
      points: some of ``points_of``, in their order; None takes all.

    Yields:
      rows of the curve: settings, ``sparsity`` requested and ``achieved_sparsity`` (fraction of
      the units), ``units_kept``, ``params_kept``, ``macs_kept`` (fractions; a multiply-add counts
      as kept if its weight is), the columns of ``tools.evaluate``, with those of all classes
      joined to one; and ``error``: empty, or why the point could not be measured: the columns of
      ``tools.evaluate`` are missing then, and those of what is kept if it could not be pruned.
    """
    left = points_of(config) if points is None else points
    whole: dict[str, dict[str, Any]] = {}
    for granularity, of_granularity in itertools.groupby(left, operator.itemgetter(0)):
        pruner, why = _attempt(functools.partial(tools.prepare, granularity))
        for sparsity, of_sparsity in itertools.groupby(of_granularity, operator.itemgetter(1)):
            prune = functools.partial(_prune, pruner, variables, sparsity, tools)
            found, error = _attempt(prune) if pruner else (None, why)
            pruned, kept = found or (None, {})
            for point in of_sparsity:
                recovery = point[2]
                # Where nothing is removed the network is the same, whatever would be.
                known = whole.get(recovery) if found and sparsity == 0 else None
                measured = known or (
                    _measured(pruned, recovery, tools) if found else {"error": error}
                )
                if sparsity == 0 and not measured["error"]:
                    whole[recovery] = measured
                yield settings_at(config, point) | kept | measured


def _prune(
    pruner: Pruner, variables: PyTree, sparsity: float, tools: CurveTools
) -> tuple[PyTree, dict[str, float]]:
    """The pruned variables, and columns of what is kept."""
    found = pruner.at(sparsity, macs=tools.macs)
    kept = {name: float(share) for name, share in found.kept.items()}
    pruned = variables | {"params": found.params}
    return pruned, {"achieved_sparsity": 1 - kept["units_kept"]} | kept | tools.compact(pruned)


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What ``work`` gives, or None and why: the points after it are still worth having."""
    try:
        return work(), ""
    except (Preempted, UsageError):
        raise
    except RunError as error:  # what is said for people, and of all processes
        return None, str(error)
    except Exception as error:  # of the device, out of memory: whatever it is, it is recorded
        if jax.process_count() > 1:  # the others are in the midst of this point, and would wait
            raise
        logging.warning("a part of the pruning curve failed", exc_info=True)
        return None, f"{type(error).__name__}: {error}".partition("\n")[0].strip()


def _measured(pruned: PyTree, recovery: str, tools: CurveTools) -> dict[str, Any]:
    """The numbers of one point, or an error instead."""
    numbers, error = _attempt(lambda: tools.evaluate(tools.mend(recovery, pruned)))
    if error:
        return {"error": error}
    # A class without examples has no accuracy, and that is no failure.
    wrong = [
        f"{name} is {value}"
        for name, value in numbers.items()
        if CLASS not in name and not math.isfinite(value)
    ]
    return {"error": ", ".join(wrong)} if wrong else join_classes(numbers) | {"error": ""}


def join_classes(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The numbers, with those of single classes as one text, in the order of the classes.

    >>> join_classes({"top1": 0.5, "class_top1/0": 1.0, "class_top1/1": 0.25})
    {'top1': 0.5, 'class_top1': '1;0.25'}
    """
    joined, texts = {}, collections.defaultdict(list)
    for key, value in numbers.items():
        name, of_class, _ = key.partition(CLASS)
        if of_class:
            texts[name].append("" if math.isnan(value) else f"{value:.4g}")
        joined[name] = ";".join(texts[name]) if of_class else value
    return joined
