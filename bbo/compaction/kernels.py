"""Which arrays are kernels, and which of their axes are inputs, outputs and window.

Read off the products of a program, as channels are: no name and no layout is taken for granted.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from bbo.compaction.channels import Channels
from bbo.compaction.tracing.arrays import Arrays, Member, Step, all_steps
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.types import Array, UsageError


class Kernel(NamedTuple):
    """The weights of a layer: a matrix or a convolution, in any layout."""

    name: str
    shape: tuple[int, ...]
    window: tuple[int, ...]
    """Axes within the window of a convolution."""
    inputs: tuple[int, ...]
    """Axes that are summed over; of a convolution with groups, the inputs of one."""
    outputs: tuple[int, ...]
    """Axes that the results have."""
    ambiguous: str = ""
    """Empty, or why its filters are not defined."""

    @property
    def stacked(self) -> tuple[int, ...]:
        """All other axes: a kernel for each of their positions, as in a scan over layers."""
        known = {*self.window, *self.inputs, *self.outputs}
        return tuple(axis for axis in range(len(self.shape)) if axis not in known)

    def to_standard(self, w: Array) -> Array:
        """As ``[stacked, *window, in, out]``, whatever its layout; several axes are merged."""
        order = (*self.stacked, *self.window, *self.inputs, *self.outputs)
        sizes = [
            math.prod(self.shape[axis] for axis in axes) for axes in (self.inputs, self.outputs)
        ]
        window = [self.shape[axis] for axis in self.window]
        return jnp.transpose(w, order).reshape(-1, *window, *sizes)

    def from_standard(self, w: Array) -> Array:
        """The inverse of ``to_standard``."""
        order = (*self.stacked, *self.window, *self.inputs, *self.outputs)
        back = sorted(range(len(order)), key=order.__getitem__)
        return jnp.transpose(w.reshape([self.shape[axis] for axis in order]), back)


def find_kernels(found: Channels) -> dict[str, Kernel]:
    """The kernels among the variables of a function, by name.

    A kernel is what is multiplied with something that depends on the inputs, in a matrix product or
    a convolution: directly, or after it was transposed, scaled, masked and the like.

    Args:
      found: from ``find_channels``.

    >>> from bbo.compaction.channels import find_channels
    >>> weights = {"w": jnp.ones((8, 3, 5))}
    >>> function = lambda weights, x: jnp.einsum("hio,ni->nho", weights["w"], x)
    >>> kernel = find_kernels(find_channels(function, weights, jnp.ones((2, 3))))["w"]
    >>> kernel.inputs, kernel.outputs
    ((1,), (0, 2))
    """
    arrays, roles = found.traced.arrays, {}
    for step in all_steps(found.traced.program):
        if step.primitive.name not in ("dot_general", "conv_general_dilated"):
            continue
        weights = [number for number, ref in enumerate(step.operands) if not arrays.varies[ref]]
        if len(weights) == 1:
            _add_roles(roles, _axes_of(arrays, step, weights[0]))
    avals = dict(zip(found.traced.names, arrays.avals, strict=False))
    kernels = {}
    for whole, own in roles.items():
        name = found.own_name(whole)
        if name is None or not jnp.issubdtype(avals[whole].dtype, jnp.inexact):
            continue
        axes = {role: tuple(axis for axis in sorted(own) if role in own[axis]) for role in ROLES}
        twice = [
            f"axis {axis} is {' and '.join(sorted(own[axis]))}"
            for axis in own
            if len(own[axis]) > 1
        ]
        kernels[name] = Kernel(name, shape_of(avals[whole]), **axes, ambiguous=", ".join(twice))
    return kernels


def removable_kernels(found: Channels) -> dict[str, Kernel]:
    """The kernels that put out channels which can be removed, by name."""
    members = {member for group in found.removable for member in group.members}
    return {
        name: kernel
        for name, kernel in find_kernels(found).items()
        if any((name, axis) in members for axis in kernel.outputs)
    }


def described_leaf(leaves: Mapping[str, Any], name: str) -> Any:
    """The array of a name in a description, among those that it is to be used for.

    Raises:
      UsageError: it is not there.
    """
    if name not in leaves:
        raise UsageError(
            f"channels tell of {name}, which is not among the parameters "
            f"({', '.join(list(leaves)[:3])}, ...); of one collection they are "
            "channels.within('params')"
        )
    return leaves[name]


ROLES = ("window", "inputs", "outputs")


def _add_roles(roles: dict[str, dict[int, set[str]]], axes: Mapping[str, set[Member]]) -> None:
    """Notes what a product does with the axes of the arrays that are its weights."""
    reading, writing = (
        {name for role in some for name, _ in axes[role]}
        for some in (("window", "inputs"), ("outputs",))
    )
    for role in ROLES:
        for name, axis in axes[role]:
            if name in reading & writing:
                roles.setdefault(name, {}).setdefault(axis, set()).add(role)


def _axes_of(arrays: Arrays, step: Step, weights: int) -> dict[str, set[Member]]:
    """The axes of variables that are window, inputs and outputs of a product.

    Args:
      arrays: of the program.
      step: a product.
      weights: which of its operands they are in.
    """
    origins = arrays.origins[step.operands[weights]]
    if step.primitive.name == "dot_general":
        contracted, batch = (axes[weights] for axes in step.params["dimension_numbers"])
        free = [a for a in range(len(origins)) if a not in (*contracted, *batch)]
        places = {"window": (), "inputs": contracted, "outputs": free}
    else:
        out, inputs, *window = step.params["dimension_numbers"].rhs_spec
        places = {"window": window, "inputs": (inputs,), "outputs": (out,)}
    return {role: {m for axis in axes for m in origins[axis]} for role, axes in places.items()}
