"""What became of a network that was made smaller, for people."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo.compaction.channels import Cut
from bbo.compaction.tracing.arguments import join, split
from bbo.pruning.units import Described
from bbo.types import PyTree, RunError


class Row(NamedTuple):
    """What became of the channels of one group."""

    name: str
    """Of a kernel that puts them out."""
    channels: int
    asked: int
    """How many were to be removed."""
    removed: int
    reason: str
    """Why fewer than asked were removed, or none; or that layers chose apart."""


class Report(NamedTuple):
    """What was asked, what was removed, what stays and why."""

    rows: list[Row]
    macs: float
    """The share of the multiply-adds that is left."""
    params: float
    """The share of the numbers in the arrays that is left."""
    difference: float | None
    """Largest difference from the masked network, relative to its largest output; None: it was not
    looked for, as the inputs were shapes."""

    def __str__(self) -> str:
        wide = max(len("channels of"), *(len(row.name) for row in self.rows))
        lines = [f"{'channels of':{wide}}  there  asked  removed"]
        lines += [
            f"{row.name:{wide}}  {row.channels:5}  {row.asked:5}  {row.removed:7}  {row.reason}"
            for row in self.rows
        ]
        same = "not compared, give arrays as inputs"
        if self.difference is not None:
            same = f"{self.difference:.1e} off the masked network"
        end = f"left: {self.macs:.1%} of the multiply-adds, {self.params:.1%} of the arrays; {same}"
        return "\n".join([*(line.rstrip() for line in lines), end])


def rows_of(
    described: Described, counts: Mapping[str, int], cut: Cut, layers: Mapping[str, int]
) -> list[Row]:
    """A line for each group.

    Args:
      described: the groups.
      counts: how many channels of each were to go.
      cut: what went.
      layers: how many choose apart, of groups whose layers are stacked, see ``layers.Sorted``.
    """
    rows = []
    for name, own in described.units.items():
        member, positions = next(iter(own.kernels.items()))
        removed = int(np.isin(positions, cut.get(member, ())).all(axis=1).sum())
        fewer = removed < counts[name]
        reasons = ["equal scores stay, or recovery has revived some"] if fewer else []
        reasons += [f"in each of {layers[name]} layers, its own"] if name in layers else []
        reason = "; ".join(reasons)
        rows.append(Row(name, own.size, counts[name], removed, reason))
    whole = described.staying.items()
    return rows + [Row(name, of.size, 0, 0, of.reason) for name, of in whole]


TOLERANCES = {32: 1e-4, 64: 1e-9}
"""Largest difference from the masked network, relative to its largest output, by bits a number."""
NARROW = 3e-2
"""The same of fewer bits."""


def difference(
    one: tuple[Callable[..., PyTree], PyTree],
    other: tuple[Callable[..., PyTree], PyTree],
    inputs: Sequence[PyTree],
    kwargs: Mapping[str, Any],
) -> float | None:
    """Of two networks, on the inputs.

    Raises:
      RunError: it is too large.
    """
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves((inputs, kwargs))):
        return None
    given = split((inputs, kwargs))

    def results(function: Callable[..., PyTree], variables: PyTree) -> list[np.ndarray]:
        @jax.jit  # One program takes less time to compile than each of its steps.
        def run(variables: PyTree, arrays: Sequence[Any]) -> PyTree:
            inputs, kwargs = join(given, arrays)
            return function(variables, *inputs, **kwargs)

        return [np.asarray(x) for x in jax.tree.leaves(run(variables, given.arrays))]

    with jax.default_matmul_precision("highest"):
        pair = results(*one), results(*other)
    worst = 0.0
    for expected, found in zip(*pair, strict=True):
        if not jnp.issubdtype(expected.dtype, jnp.inexact) or not expected.size:
            continue
        tolerance = TOLERANCES.get(jnp.finfo(expected.dtype).bits, NARROW)
        kind = np.complex128 if np.iscomplexobj(expected) else np.float64
        expected, found = expected.astype(kind), found.astype(kind)
        scale = max(float(np.nanmax(np.abs(expected), initial=0)), np.finfo(np.float64).tiny)
        alike = (expected == found) | (np.isnan(expected) & np.isnan(found))
        with np.errstate(invalid="ignore"):
            off = float(np.max(np.abs(np.where(alike, 0, expected - found)))) / scale
        if not off <= tolerance:
            raise RunError(
                f"the small network differs from the masked one: {off:.1e} of its largest output"
            )
        worst = max(worst, off)
    return worst
