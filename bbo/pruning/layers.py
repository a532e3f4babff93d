"""Layers stacked for a scan: the channels of each in the order of their scores.

A cut takes the same places of all the layers of a stack. If the channels of each layer are in the
order of their scores, these are the weakest of each, wherever they had been.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.stacks import Stack, layer_of, reordered, stacks_in
from bbo.compaction.tracing.arguments import join, split
from bbo.pruning.criteria import Criterion
from bbo.pruning.units import Units, channel_scores
from bbo.types import Array, PyTree

TOLERANCE = 1000
"""Two results are the same if they differ by no more, in roundings of the largest number."""
TELLING = 10 * TOLERANCE
"""And surely not the same if they differ by more."""
SEED = 0
"""Of the numbers and the order by which it is tried."""


class Sorted(NamedTuple):
    """A network in which each layer of a stack has its channels in the order of their scores."""

    variables: PyTree
    layers: dict[str, int]
    """How many layers choose apart, by the name of the channels; see ``units.describe``."""


def sort_layers(
    function: Callable[..., PyTree],
    variables: PyTree,
    inputs: Sequence[PyTree],
    kwargs: Mapping[str, Any],
    *,
    found: Channels,
    units: Mapping[str, Units],
    criterion: str | Criterion = "l2",
) -> Sorted:
    """The same network, the channels of each scanned layer sorted, the most important first.

    Whether a loop treats all channels of a layer alike is tried: with other numbers in all arrays,
    and the channels in an order by chance. Where the result is another, the order stays.

    Args:
      function: any function that jax can trace.
      variables: all its arrays, concrete.
      inputs: examples; ``jax.ShapeDtypeStruct`` will do.
      kwargs: of the function.
      found: its channels, from ``compaction.find_channels``.
      units: those that are to be pruned, from ``units.describe``.
      criterion: see ``pruning.channel_scores``.
    """
    layers = {}
    stacks = stacks_in(found)
    for name, own in units.items():
        stack = next((stack for stack in stacks if _is_of(own, stack)), None)
        if stack is None or not _alike(function, variables, stack, inputs, kwargs):
            continue
        order = jnp.argsort(-_scores(variables, stack, own, criterion), axis=1)
        variables = reordered(stack, variables, order)
        layers[name] = stack.layers
    return Sorted(variables, layers)


def _is_of(units: Units, stack: Stack) -> bool:
    members = stack.group.members
    return all(np.array_equal(members.get(m, ()), found) for m, found in units.kernels.items())


def _scores(variables: PyTree, stack: Stack, own: Units, criterion: str | Criterion) -> Array:
    """[layers, channels]."""
    leaves = trees.flatten(variables)
    kernels = {(name, axis - 1): found for (name, axis), found in own.kernels.items()}
    of_layer = {"": Units(kernels, {})}
    scored = [
        channel_scores(layer_of(stack, leaves, i), of_layer, criterion=criterion)[""]
        for i in range(stack.layers)
    ]
    return jnp.stack(scored)


def _alike(
    function: Callable[..., PyTree],
    variables: PyTree,
    stack: Stack,
    inputs: Sequence[PyTree],
    kwargs: Mapping[str, Any],
) -> bool:
    """Whether the result is the same with the channels in any order.

    And whether that can be told: it has to change if what reads the channels is left as it was.
    """
    rng = np.random.default_rng(SEED)
    given = split((inputs, kwargs))
    if not all(map(_has_example, given.arrays)):
        return False
    arrays = [_example(x, rng) for x in given.arrays]

    @jax.jit
    def run(variables: PyTree) -> PyTree:
        inputs, kwargs = join(given, arrays)
        return function(variables, *inputs, **kwargs)

    other = jax.tree.map(lambda w: _varied(w, rng), variables)
    places = np.tile(np.arange(stack.group.size), (stack.layers, 1))
    order = rng.permuted(places, axis=1)
    with jax.default_matmul_precision("highest"):
        expected = run(other)
        same = _difference(expected, run(reordered(stack, other, order)))
        wrong = _difference(expected, run(reordered(stack, other, order, writers_only=True)))
    return same <= TOLERANCE and wrong > TELLING


def _has_example(x: Any) -> bool:
    """Whether it is an array, or a shape of known sizes of numbers."""
    is_shape = isinstance(x, jax.ShapeDtypeStruct)
    return not is_shape or (
        jnp.issubdtype(x.dtype, np.number) and all(isinstance(size, int) for size in x.shape)
    )


def _example(x: Any, rng: np.random.Generator) -> Any:
    """An array for a shape."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x
    return jnp.asarray(rng.uniform(0, 1, x.shape), x.dtype)


def _varied(w: Any, rng: np.random.Generator) -> Any:
    """Other numbers of such sizes, none of them zero; what is positive, as a variance, stays so."""
    if not jnp.issubdtype(jnp.result_type(w), jnp.floating):
        return w
    numbers = np.asarray(w, np.float64) * rng.uniform(0.5, 1.5, np.shape(w))
    return jnp.asarray(numbers + rng.uniform(0, 0.1, np.shape(w)), jnp.result_type(w))


def _difference(one: PyTree, other: PyTree) -> float:
    """The largest, in roundings of the largest number of its array; infinite if not finite."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jnp.inexact) and a.size:
            off, scale = float(jnp.max(jnp.abs(a - b))), float(jnp.max(jnp.abs(a)))
            rounding = scale * float(jnp.finfo(a.dtype).eps)
            worst = max(worst, off / rounding if scale > 0 and np.isfinite(off) else np.inf)
    return worst
