"""Scores: how much each unit (weight, 2-D kernel or filter) of a network matters."""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.settings.catalog import CRITERIA, UNITS
from bbo.trees import wide
from bbo.types import Array, Params, Rng, UsageError, require, require_one_of


def convolutions(name: str, leaf: Any) -> bool:
    """Whether a parameter is the kernel of a convolution, 1x1 included, as far as can be told.

    See ``trees.is_convolution`` for what is left out, and give a selection where that is wrong.
    """
    return trees.is_convolution(name, leaf)


def eligible(params: Params, on: trees.Selector = convolutions) -> dict[str, Array]:
    """The parameters that may be pruned, by name.

    Raises:
      UsageError: nothing is selected, or what has no filters to rank (rank 0), or no
        floating-point numbers.
    """
    selected = trees.flatten(trees.select(params, on))
    chosen = {name: leaf for name, leaf in trees.flatten(params).items() if selected[name]}
    for name, leaf in chosen.items():
        trees.require_floating(name, leaf, "pruned")
        if leaf.ndim == 0:
            raise UsageError(f"{name} is a single number; select parameters that have filters")
    return chosen


def norm_of(kernel_name: str) -> str:
    """Name of the norm layer that reads this convolution's output and nothing else, if it exists.

    The networks of ``bbo.models`` call it after the convolution.

    >>> norm_of("stage1/conv1/kernel")
    'stage1/conv1_norm'
    """
    return kernel_name.rpartition("/")[0] + "_norm"


class Unit(NamedTuple):
    """A parameter whose units are to be scored, and what scores may depend on."""

    name: str
    weights: Array
    """In float32 at least; filters on the last axis."""
    axes: tuple[int, ...]
    """Those that make up one unit: none for single weights, all but the last for filters."""
    gradient: Array | None
    """Of the loss, like ``weights``."""
    rng: Rng
    """A key of its own; None if there is none."""
    params: Params
    """The whole network."""


Criterion = Callable[[Unit], Array]
"""The score of each unit: the shape of the weights without ``axes``."""


def l1(unit: Unit) -> Array:
    """Sum of magnitudes."""
    return jnp.sum(jnp.abs(unit.weights), axis=unit.axes)


def l2(unit: Unit) -> Array:
    """Euclidean norm."""
    if not unit.axes:
        return l1(unit)
    return jnp.sqrt(jnp.sum(jnp.square(unit.weights), axis=unit.axes))


def norm_scale(unit: Unit) -> Array:
    """Magnitude of the BatchNorm scale behind the filter (Liu et al. 2017, arXiv 1708.06519)."""
    if unit.weights.ndim == 1:
        return l2(unit)
    leaves = trees.flatten(unit.params)
    scale = norm_of(unit.name) + "/scale"
    if scale not in leaves:
        raise UsageError(
            f"criterion 'norm_scale' needs a norm layer behind every convolution, and {unit.name} "
            f"has none ({scale}); select others (prune_on) or another criterion"
        )
    return jnp.abs(wide(leaves[scale]))


def taylor(unit: Unit) -> Array:
    """Squared first-order change of the loss, ``(sum w dL/dw)**2``.

    Average the scores over mini-batches. References: Molchanov et al. 2019 (arXiv 1906.10771).
    """
    if unit.gradient is None:
        raise UsageError("criterion 'taylor' needs the argument gradients")
    return jnp.square(jnp.sum(unit.weights * wide(unit.gradient), axis=unit.axes))


def geometric_median(unit: Unit) -> Array:
    """Sum of the distances from each filter to all others (He et al. 2019, arXiv 1811.00250)."""
    if unit.weights.ndim == 1:
        return l2(unit)
    filters = unit.weights.reshape(-1, unit.weights.shape[-1]).T

    def far(one: Array) -> Array:
        # Of differences: squares and products cancel where filters are close, or are equal.
        return jnp.sum(jnp.sqrt(jnp.sum(jnp.square(filters - one), axis=1)))

    return jax.lax.map(far, filters)


def random(unit: Unit) -> Array:
    """Uniform numbers."""
    if unit.rng is None:
        raise UsageError("criterion 'random' needs the argument rng")
    shape = unit.weights.shape[len(unit.axes) :]
    return jax.random.uniform(unit.rng, (math.prod(shape),)).reshape(shape)


def index(unit: Unit) -> Array:
    """Higher for the first filters than for the last: ordered widths (arXiv 1903.05134)."""
    count = unit.weights.shape[-1]
    return jnp.arange(count, 0, -1, dtype=unit.weights.dtype)


FUNCTIONS: dict[str, Criterion] = {
    "l2": l2,
    "l1": l1,
    "norm_scale": norm_scale,
    "taylor": taylor,
    "geometric_median": geometric_median,
    "random": random,
    "index": index,
}
"""What computes each of ``catalog.CRITERIA``."""


def _unit_axes(leaf: Array, granularity: str) -> tuple[int, ...]:
    """The axes that make up one unit."""
    if granularity == "weight" or leaf.ndim == 1:
        return ()
    return tuple(range(leaf.ndim - {"filter": 1, "kernel": 2}[granularity]))


def scores(
    params: Params,
    *,
    criterion: str | Criterion,
    granularity: str,
    on: trees.Selector = convolutions,
    gradients: Params | None = None,
    rng: Rng = None,
) -> dict[str, Array]:
    """Importance of every unit; the lowest are pruned first.

    Args:
      params: the network.
      criterion: one of ``catalog.CRITERIA``, see the functions above, or a function of its own.
      granularity: ``weight``, ``kernel`` or ``filter``.
      on: which parameters; vectors among them (norm scales) are ranked by magnitude.
      gradients: of the loss, like ``params``; for ``taylor``.
      rng: for ``random``.

    Returns:
      by name: ``[out]`` for filters, ``[in, out]`` for kernels, the kernel's shape for weights.

    Raises:
      UsageError: a criterion that needs what is not there, or gives scores of another shape.

    >>> params = {"conv": {"kernel": jnp.arange(4.0).reshape(1, 1, 2, 2)}}
    >>> largest = lambda unit: jnp.max(jnp.abs(unit.weights), axis=unit.axes)
    >>> scores(params, criterion=largest, granularity="filter")
    {'conv/kernel': Array([2., 3.], dtype=float32)}
    """
    require_one_of(UNITS, "granularity", granularity)
    if isinstance(criterion, str):
        require_one_of(CRITERIA, "criterion", criterion)
        allowed = " or ".join(map(repr, CRITERIA[criterion]))
        known = granularity in CRITERIA[criterion]
        require(known, "granularity", granularity, f"{allowed} for {criterion}")
    function = FUNCTIONS[criterion] if isinstance(criterion, str) else criterion
    slopes = trees.flatten(gradients) if gradients is not None else {}
    found = {}
    for name, leaf in eligible(params, on).items():
        key = None if rng is None else jax.random.fold_in(rng, zlib.crc32(name.encode()))
        axes = _unit_axes(leaf, granularity)
        found[name] = function(Unit(name, wide(leaf), axes, slopes.get(name), key, params))
        if found[name].shape != leaf.shape[len(axes) :]:
            raise UsageError(
                f"the criterion gives scores of shape {found[name].shape} for {name}; they must "
                f"be {leaf.shape[len(axes) :]}, one for each {granularity}"
            )
    return found
