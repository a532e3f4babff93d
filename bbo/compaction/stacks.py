"""Layers stacked for a scan: channels that live within the loop, in an order of each layer's own.

The arrays of such layers are ``[layers, ...]``, and a channel is the same place in all of them. But
nothing outside of the loop knows the places, so that each layer's channels may be put in another
order, and the function stays.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels, Group
from bbo.compaction.tracing.arrays import Program, all_steps
from bbo.types import Array, PyTree


class Stack(NamedTuple):
    """A group of channels of layers that are stacked."""

    group: Group
    layers: int


def stacks_in(found: Channels) -> list[Stack]:
    """The groups whose arrays go into one scan, layer by layer, and which are nowhere else.

    Whether the channels of a group are alike in all that the loop does with them is not told.

    Args:
      found: of a function, from ``find_channels``.
    """
    traced = found.traced
    stacks = []
    for scan in (step for step in traced.program.steps if step.primitive.name == "scan"):
        sliced = {
            traced.names[ref]
            for ref in scan.operands[sum(scan.scanned) :]
            if ref < len(traced.names)
        }
        outside = set(range(len(traced.arrays.nodes))) - _arrays_in(scan.inner[0])
        for group in found.removable:
            names = {found.part + name for name, _ in group.members}
            if group.size > 1 and names <= sliced and _homes(found, group, outside) == names:
                stacks.append(Stack(group, scan.params["length"]))
    return stacks


def _arrays_in(program: Program) -> set[int]:
    """All that is read or written in a program and in those within it."""
    steps = list(all_steps(program))
    programs = [program, *(inner for step in steps for inner in step.inner)]
    around = (ref for one in programs for ref in (*one.inputs, *one.outputs))
    return {*around, *(ref for step in steps for ref in (*step.operands, *step.results))}


def _homes(found: Channels, group: Group, outside: set[int]) -> set[str]:
    """The variables among the arrays ``outside`` that have channels of the group; "" for others."""
    arrays, names = found.traced.arrays, found.traced.names
    is_own = np.zeros(int(found.labels.max()) + 1, bool)
    for (name, axis), positions in group.members.items():
        nodes = arrays.nodes[names.index(found.part + name)][axis]
        is_own[found.labels[nodes[positions]]] = True
    return {
        names[ref] if ref < len(names) else ""
        for ref in outside
        if any(is_own[found.labels[nodes]].any() for nodes in arrays.nodes[ref])
    }


def layer_of(stack: Stack, leaves: Mapping[str, Array], number: int) -> dict[str, Array]:
    """The arrays of one layer, and all others as they are."""
    own = {name for name, _ in stack.group.members}
    return {name: leaf[number] if name in own else leaf for name, leaf in leaves.items()}


def reordered(
    stack: Stack, variables: PyTree, order: Array, *, writers_only: bool = False
) -> PyTree:
    """The variables with the channels of each layer in another order.

    Args:
      stack: of ``stacks_in``.
      variables: what it was found in.
      order: int [layers, channels]: which channel comes to each place.
      writers_only: leaves the arrays that read the channels as they are: another function.
    """
    found = {}
    for (name, axis), positions in stack.group.members.items():
        if not (writers_only and (name, axis) in stack.group.readers):
            leaf = found.get(name, trees.flatten(variables)[name])
            places = np.broadcast_to(np.arange(leaf.shape[axis]), (stack.layers, leaf.shape[axis]))
            places = places.copy()
            places[:, positions] = positions[np.asarray(order)]
            found[name] = jax.vmap(lambda w, i, axis=axis: jnp.take(w, i, axis - 1))(leaf, places)
    return trees.map_named(lambda name, leaf: found.get(name, leaf), variables)
