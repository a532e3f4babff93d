"""Running statistics estimated anew through a training step of any framework."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.pruning.recovery.pooling import mean_beside, pooled
from bbo.types import Array, PyTree, UsageError

SETTLED = 2**30
"""Of a counter of training steps: so many that no average is corrected for having begun."""
TOLERANCE = 1e-3
"""How far a statistic may be from a running average, as a share of its largest value."""

Leaves = dict[str, Any]


def images_in(batch: PyTree) -> int:
    """Length of the first axis of all arrays of a batch.

    Raises:
      UsageError: they differ, or there are none.
    """
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf)}
    if len(lengths) != 1:
        raise UsageError(
            f"the first axes of the arrays of a batch have lengths {sorted(lengths)}; they must be "
            "the same; say how many images a batch has: size=lambda batch: ..."
        )
    return lengths.pop()


def reestimate(
    train: Callable[[PyTree, Any], PyTree],
    variables: PyTree,
    batches: Iterable[Any],
    *,
    mean_of: Callable[[str], str | None] = mean_beside,
    size: Callable[[Any], int] = images_in,
) -> PyTree:
    """Running statistics of the given parameters: exact moments pooled over batches of any sizes.

    Works through any function that moves statistics as training does, ``m old + (1 - m) b`` with
    ``b`` those of the batch. Both are read off the function: from old values of zero it gives
    ``(1 - m) b``, and from other ones, on the first batch alone, its momentum ``m``. Counters of
    steps are zero meanwhile, so that averages corrected for having begun are ``b`` as well. The
    pooled mean is the mean of the batches' means; the pooled variance that of their variances and
    of the squared distances of their means. Pooled on the host in float64. No gradient.

    Args:
      train: ``(variables, batch) -> variables``: one forward pass in training mode, whatever its
        momentum; gives all variables or the part that holds the statistics. Compile it.
      variables: of the pruned network, any tree of arrays.
      batches: each counts by its size.
      mean_of: from a statistic's name to that of the mean which belongs to it, if it is a
        variance; None for what is averaged. By default known from the names, see
        ``pooling.mean_beside``; for others ``{"0/1": "0/0"}.get`` will do.
      size: how many images a batch holds.

    Returns:
      the variables with new statistics. Counters of steps count so many that averages which are
      corrected for having begun need none; flags are as after a step of training.

    Raises:
      UsageError: the function changes nothing, or something that is no running average; a name
        says neither mean nor variance; there is no batch.

    >>> def train(variables, x):
    ...     stats = {"mean": x.mean(0), "var": x.var(0)}
    ...     return jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, variables, stats)
    >>> found = reestimate(train, {"mean": 5.0, "var": 1.0}, [jnp.array([1.0]), jnp.arange(2.0)])
    >>> {name: round(float(value), 4) for name, value in found.items()}
    {'mean': 0.6667, 'var': 0.2222}

    References: the re-estimation of Wu & Johnson 2021, "Rethinking Batch in BatchNorm".
    """
    given, structure = trees.flatten(variables), jax.tree.structure(variables)
    given = {name: jnp.asarray(x) if isinstance(x, float) else x for name, x in given.items()}

    def evaluate(leaves: Leaves, batch: Any) -> Leaves:
        result = trees.flatten(train(jax.tree.unflatten(structure, leaves.values()), batch))
        _check_same_leaves(given, result)
        return result

    found, values, sizes = None, [], []
    for batch in batches:
        if found is None:
            found = _averages_of(evaluate, given, batch)
        new = evaluate(found.start, batch)
        values.append({name: _host(new[name]) / (1 - m) for name, m in found.momenta.items()})
        sizes.append(size(batch))
    if found is None:
        raise UsageError("there are no batches to estimate statistics from; give one at least")
    statistics = pooled(values, np.array(sizes, np.float64), mean_of)
    new = {name: jnp.asarray(x, found.start[name].dtype) for name, x in statistics.items()}
    return jax.tree.unflatten(structure, (given | found.others | new).values())


class _Averages(NamedTuple):
    """What a function does to its variables."""

    momenta: dict[str, float]
    """Of each statistic."""
    start: Leaves
    """The variables, with statistics and counters of zero."""
    others: Leaves
    """What else it changes, as it is to be left."""


def _averages_of(evaluate: Callable[[Leaves, Any], Leaves], given: Leaves, batch: Any) -> _Averages:
    # Moved, since a statistic may happen to be that of the batch.
    moved = {
        name: jnp.asarray(leaf) + 1 if _is_float(leaf) else leaf for name, leaf in given.items()
    }
    after = evaluate(moved, batch)
    changed = [name for name, leaf in after.items() if not _equal(leaf, moved[name])]
    averages = [name for name in changed if _is_float(given[name])]
    if not averages:
        raise UsageError(
            "train(variables, batch) changes no array of floating type, so there are no statistics "
            "to estimate; it has to apply the network in training mode and to give back the new "
            "statistics (Linen: train=True and mutable=['batch_stats'])"
        )
    counters = [name for name in changed if _is_counter(given[name])]
    settled = {
        name: jnp.full_like(given[name], min(SETTLED, jnp.iinfo(given[name].dtype).max // 2))
        for name in counters
    }
    start = given | {name: jnp.zeros_like(given[name]) for name in averages + counters}
    others = {name: after[name] for name in changed if name not in averages} | settled
    return _Averages(_momenta(evaluate, start, averages, batch), start, others)


def _momenta(
    evaluate: Callable[[Leaves, Any], Leaves], start: Leaves, averages: list[str], batch: Any
) -> dict[str, float]:
    """Momentum of each statistic, from what it makes of a large old value and of a usual one.

    Statistics of the same last name are moved together and apart from the others: one that is
    computed from another (an average corrected for having begun) has itself a momentum of zero.
    """
    first = {name: _host(leaf) for name, leaf in evaluate(start, batch).items() if name in averages}
    momenta = {}
    for kind in dict.fromkeys(name.rpartition("/")[2] for name in averages):
        names = [name for name in averages if name.rpartition("/")[2] == kind]
        # A power of two, beside which the batch's share is lost: the momentum as it was rounded.
        large = {name: jnp.full_like(start[name], _large(start[name])) for name in names}
        new = evaluate(start | large, batch)
        for name in names:
            m = np.median((_host(new[name]) - first[name]) / _large(start[name]))
            momenta[name] = _momentum(name, m, start[name].dtype)
        usual = {
            name: 1 + jnp.arange(x.size).reshape(x.shape) / x.size for name, x in large.items()
        }
        usual = {name: x.astype(start[name].dtype) for name, x in usual.items()}
        new = evaluate(start | usual, batch)
        for name in names:
            expected = momenta[name] * _host(usual[name]) + first[name]
            error = np.max(np.abs(_host(new[name]) - expected), initial=0)
            if not error <= TOLERANCE * np.max(np.abs(expected), initial=0):
                raise UsageError(
                    f"train(variables, batch) does not move {name} as a running average, to "
                    "m old + (1 - m) new; it must normalise by the moments of the batch, "
                    "not by running ones, and statistics of other kinds must be left out of what "
                    "train gives back"
                )
    return momenta


def _momentum(name: str, m: float, dtype: Any) -> float:
    if not np.isfinite(m):
        raise UsageError(f"train(variables, batch) gives values of {name} that are not finite")
    if not -1e-6 < m < 1 - 1e-6:
        raise UsageError(
            f"train(variables, batch) moves {name} to {m:.6g} times its old value and something "
            "else; a running average has a momentum >= 0 and < 1; train must not take a step of "
            "the optimiser, and has to leave out of what it gives back what is no running average"
        )
    # The decimal that was rounded: 1 - m is computed from it and not from the rounded one.
    wide = jnp.finfo(dtype).bits > 32
    return max(float(m) if wide else float(str(np.float32(m))), 0.0)


def _check_same_leaves(given: Leaves, result: Leaves) -> None:
    for name, leaf in result.items():
        if name not in given or jnp.shape(leaf) != jnp.shape(given[name]):
            shapes = f"{name} {jnp.shape(leaf)}"
            listed = ", ".join(list(given)[:8]) + (", ..." if len(given) > 8 else "")
            raise UsageError(
                f"train(variables, batch) gives {shapes}, which is no array of the variables "
                f"({listed}); it must give the same tree or a part of it under the same names, "
                "as {'batch_stats': ...}"
            )


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_counter(leaf: Any) -> bool:
    """Not one of random keys, which is unsigned."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.signedinteger)


def _equal(a: Any, b: Any) -> bool:
    if not hasattr(a, "dtype"):
        return bool(a == b)
    if _is_float(a):
        return bool(jnp.array_equal(a, b, equal_nan=True))
    return bool(jnp.all(a == b))


def _large(leaf: Array) -> float:
    return 2.0 ** min(40, jnp.finfo(leaf.dtype).maxexp - 4)


def _host(leaf: Array) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64)
