"""Channels really removed: smaller arrays, and the same function on them.

A channel is dead if it is zero wherever something is summed over it, whatever the inputs are. That
is told from the parameters alone, by following zeros through the program. Removing dead channels
changes nothing; the program is done again with the sizes that are left.
"""

import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bbo import trees
from bbo.compaction.channels import Channels, Cut, check_cut, cut_of, find_channels, labels_of
from bbo.compaction.dead import follow
from bbo.compaction.derivatives import without_rules
from bbo.compaction.replay import smaller_function
from bbo.compaction.report import Report, report_of
from bbo.compaction.sizes import sizes_of
from bbo.compaction.tracing.flow.positions import Choices
from bbo.compaction.tracing.updates import Updates
from bbo.types import Array, PyTree, UsageError, require


class Compact(NamedTuple):
    """A smaller network."""

    variables: PyTree
    """Of the same structure, with smaller arrays."""
    function: Callable[..., PyTree]
    """``function(variables, *inputs, **kwargs)``: pure, may be compiled, and takes any batch size
    and any dtype.

    For inputs of other shapes the function is traced again; a UsageError tells if it is then
    another program, in which what is removed is not dead. For that it holds on to the variables.
    """
    cut: Cut
    """What was removed; ``removed=`` takes it, for another function of the same variables."""
    report: Report
    """Why zero channels stay, and where the width that was still counts; ``print`` it."""
    inlined: tuple[str, ...] = ()
    """Functions with a ``jax.custom_jvp`` or ``jax.custom_vjp`` that cannot be done with fewer
    channels: they are the same, but their derivatives are those of their programs."""


def compact(
    function: Callable[..., PyTree],
    variables: PyTree,
    *inputs: PyTree,
    removed: Cut | None = None,
    updates: Updates | None = None,
    parts: Choices = MappingProxyType({}),
    **kwargs: PyTree,
) -> Compact:
    """Removes the dead channels of ``function(variables, *inputs, **kwargs)``.

    Inputs, and what is computed from them, are taken as finite, and places that are looked up by
    inputs, as rows of an embedding, as being there. Of a group of dead channels alone one stays.

    Args:
      function: any function that jax can trace.
      variables: concrete arrays; with ``removed`` they may be traced.
      *inputs: examples; ``jax.ShapeDtypeStruct`` will do. What is no array, as ``True`` or a name,
        is passed on as it is.
      removed: what to remove instead, be it dead or alive, see ``cut_of``. The cut of one function
        of the variables, of a network at test, is that of another, of its training.
      updates: picks from the result what are the next values of variables, see ``find_channels``;
        they have the sizes that are left.
      parts: which part of a split axis has the channels, see ``find_channels``. Heads and numbers
        within them go one after the other: compact the smaller function again.
      **kwargs: more inputs, as ``train=False``. A function with keywords of its own that are called
        ``removed``, ``updates`` or ``parts`` has to be wrapped.

    Raises:
      UsageError: ``removed`` is not one of whole channels that can be removed; the variables are
        traced, and ``removed`` is not given; see ``find_channels`` too.

    Examples:
      >>> weights = {"in": jnp.array([[1.0, 0.0], [2.0, 0.0]]), "out": jnp.ones((2, 3))}
      >>> small = compact(lambda w, x: jax.nn.relu(x @ w["in"]) @ w["out"], weights, jnp.ones(2))
      >>> jax.tree.map(jnp.shape, small.variables)
      {'in': (2, 1), 'out': (1, 3)}
      >>> small.function(small.variables, jnp.ones(2)).tolist()
      [3.0, 3.0, 3.0]
      >>> print(small.report)
      Channels that are zero and stay: none
    """
    found = find_channels(function, variables, *inputs, updates=updates, parts=parts, **kwargs)
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(variables))
    followed = None if is_traced else follow(found, variables)
    if removed is not None:
        cut = removed
    elif followed is not None:
        cut = _dead(found, followed.summed)
    else:
        raise UsageError(
            "the variables are traced, and which channels are dead is told from their values; "
            "call compact outside of jax.jit, or give removed="
        )
    check_cut(found, cut)
    inlined = without_rules(sizes_of(found, cut))
    if inlined:
        logging.getLogger(__name__).warning(
            "with fewer channels the derivatives of their programs stand in for their own: %s",
            ", ".join(inlined),
        )

    def check(others: Channels) -> None:
        try:
            check_cut(others, cut)
            if removed is None:
                _check_dead(others, variables, cut)
        except UsageError as error:
            raise UsageError(
                "for inputs of these shapes the function is another program than for those of the "
                f"example, and cannot be done without what is removed: {error}; compact it with an "
                "example of these shapes"
            ) from None

    small = smaller_function(function, found, cut, check=check, updates=updates, parts=parts)
    report = report_of(found, followed, cut)
    return Compact(smaller(variables, cut), small, cut, report, inlined)


def _check_dead(found: Channels, variables: PyTree, cut: Cut) -> None:
    """Refuses to remove what is not dead.

    Raises:
      UsageError: something in the cut is not dead.
    """
    removed = sizes_of(found, cut).removed & follow(found, variables).summed
    alive = [group.name for group in found.groups if removed[labels_of(found, group)].any()]
    if alive:
        raise UsageError(f"channels of {', '.join(alive)} are not dead here")


def dead_channels(found: Channels, variables: PyTree) -> Cut:
    """The channels that can be removed without a change of the function.

    One channel of each group stays, even if all are dead.

    Args:
      found: the channels of the function.
      variables: its concrete parameters.
    """
    return _dead(found, follow(found, variables).summed)


def _dead(found: Channels, summed: np.ndarray) -> Cut:
    dead = []
    for group in found.removable:
        units = ~summed[labels_of(found, group)]
        if units.all():
            units[0] = False
        dead.append(units)
    return cut_of(found.removable, dead)


def rounded(found: Channels, cut: Cut, multiple: int) -> Cut:
    """A part of a cut: a multiple of some number of channels is left of each group, or all of them.

    Convolutions of such widths may be faster.

    Args:
      found: the channels of the function.
      cut: from ``dead_channels`` or ``cut_of``.
      multiple: >= 1.

    Raises:
      UsageError: the multiple is out of range; or see ``cut_of``.

    >>> weights = {"in": jnp.zeros((2, 9)).at[:, :3].set(1), "out": jnp.ones((9, 3))}
    >>> function = lambda w, x: jax.nn.relu(x @ w["in"]) @ w["out"]
    >>> found = find_channels(function, weights, jnp.ones(2))
    >>> smaller(weights, rounded(found, dead_channels(found, weights), 4))["in"][0].tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    require(multiple >= 1, "multiple", multiple, ">= 1")
    removed = sizes_of(found, cut).removed
    fewer = []
    for group in found.removable:
        units = removed[labels_of(found, group)]
        left = -(-np.sum(~units) // multiple) * multiple
        spared = units.sum() - max(0, units.size - left)
        fewer.append(units & (np.cumsum(units) > spared))
    return cut_of(found.removable, fewer)


def shares_left(variables: PyTree, cut: Cut, macs: Mapping[str, int]) -> dict[str, float]:
    """The shares of multiply-adds, ``macs``, and of parameters, ``params``, that a cut leaves.

    Args:
      variables: of the whole network, with ``params``.
      cut: from ``dead_channels`` or ``cut_of``.
      macs: multiply-adds of the whole network, by kernel.
    """
    leaves = trees.flatten(variables["params"])
    whole = {name: leaf.size for name, leaf in leaves.items()}
    left = {
        name: math.prod(
            size - len(cut.get((f"params/{name}", axis), ()))
            for axis, size in enumerate(leaf.shape)
        )
        for name, leaf in leaves.items()
    }
    kept = sum(count * left[name] / whole[name] for name, count in macs.items())
    return {
        "macs": kept / sum(macs.values()),
        "params": sum(left.values()) / sum(whole.values()),
    }


def smaller(variables: PyTree, cut: Cut) -> PyTree:
    """The arrays without the positions of a cut; may be traced."""

    def shrink(name: str, leaf: Array) -> Array:
        cuts = [(axis, cut[name, axis]) for axis in range(jnp.ndim(leaf)) if (name, axis) in cut]
        if cuts and not isinstance(leaf, Tracer) and not getattr(leaf, "weak_type", False):
            leaf = np.asarray(leaf)  # in numpy nothing is compiled anew for each shape
        numpy = np if isinstance(leaf, np.ndarray) else jnp
        for axis, removed in cuts:
            leaf = numpy.delete(leaf, removed, axis)
        return jnp.asarray(leaf) if cuts else leaf

    return trees.map_named(shrink, variables)
