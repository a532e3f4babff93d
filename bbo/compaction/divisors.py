"""Lengths of axes that are numbers in a program, and stay what they were when channels go.

A mean is a sum, divided by a number. Without dead channels it is divided by the number that there
was all the same, so that the function stays what it is; but whoever puts the smaller arrays into a
module built anew divides by the number that is left.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bbo.compaction.channels import Channels, Cut, labels_of
from bbo.compaction.sizes import sizes_of
from bbo.compaction.tracing.arrays import Program, Step
from bbo.compaction.tracing.custom import plain_steps
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.compaction.tracing.flow.rules import ELEMENTWISE

MOVES = frozenset(
    "broadcast_in_dim reshape squeeze transpose convert_element_type copy stop_gradient".split()
)
"""What changes no number."""
ANEW = (
    "the smaller function is the network; its arrays in a module built anew at the width that is "
    "left are another one"
)


class _Sum(NamedTuple):
    """A sum over an axis from which something is removed."""

    count: int
    """How many numbers are added, of the whole network."""
    name: str
    """Of the group of the channels."""


class _Read(NamedTuple):
    """What is known of a program, filled while it is read."""

    found: Channels
    removed: dict[int, str]
    """The name of the group, by label."""
    numbers: dict[int, float]
    """Arrays that hold but one number, which is known."""
    sources: dict[int, int]
    """Of which array another one is a copy, as far as numbers go."""
    sums: dict[int, _Sum]
    factors: dict[int, float]
    """Of arrays that are another one times a number."""
    notes: list[str]


def divisor_notes(found: Channels, cut: Cut) -> list[str]:
    """A sentence for each number that was the length of an axis from which something is removed.

    Args:
      found: the channels of a function.
      cut: what is removed.
    """
    is_removed = sizes_of(found, cut).removed
    names = {
        label: group.name for group in found.groups for label in labels_of(found, group).tolist()
    }
    removed = {label: names[label] for label in np.flatnonzero(is_removed).tolist()}
    numbers = {
        ref: float(value)
        for ref, value in found.traced.arrays.constants.items()
        if not np.shape(value)
        and not isinstance(value, Tracer)
        and jnp.issubdtype(jnp.result_type(value), np.number)
        and not jnp.iscomplexobj(value)
    }
    read = _Read(found, removed, numbers, {}, {}, {}, [])
    if removed:
        _read(read, found.traced.program)
    return list(dict.fromkeys(read.notes))


def _read(read: _Read, program: Program) -> None:
    for step in plain_steps(program.steps):
        for inner in step.inner:
            _read(read, inner)
        name = step.primitive.name
        if name in MOVES:
            read.sources[step.results[0]] = _source(read, step.operands[0])
        if name in MOVES or name in ELEMENTWISE:
            _compute(read, step)
        if name in ("mul", "div"):
            _scale(read, step)
        if name == "reshape":
            _split(read, step)
        if step.flow.sums:
            _sum(read, step)


def _source(read: _Read, ref: int) -> int:
    return read.sources.get(ref, ref)


def _compute(read: _Read, step: Step) -> None:
    """A number that is made of numbers."""
    values = [read.numbers.get(ref) for ref in step.operands]
    if None in values:
        return
    if step.primitive.name in MOVES:
        read.numbers[step.results[0]] = read.numbers[step.operands[0]]
        return
    dtypes = [read.found.traced.arrays.avals[ref].dtype for ref in step.operands]
    with jax.ensure_compile_time_eval():
        result = step.primitive.bind(*map(jnp.asarray, values, dtypes), **step.params)
    if jnp.issubdtype(result.dtype, np.floating) or jnp.issubdtype(result.dtype, np.integer):
        read.numbers[step.results[0]] = float(result)


def _scale(read: _Read, step: Step) -> None:
    """An array times a number, or divided by one."""
    left, right = step.operands
    if step.primitive.name == "mul" and left in read.numbers:
        left, right = right, left
    number = read.numbers.get(right)
    if left in read.numbers or not number:
        return
    factor = number if step.primitive.name == "mul" else 1 / number
    read.factors[step.results[0]] = factor
    source = _source(read, left)
    if source in read.sums:
        _note(read, read.sums[source], factor)


def _sum(read: _Read, step: Step) -> None:
    """A sum over axes, one of which may have lost positions."""
    arrays, labels = read.found.traced.arrays, read.found.labels
    summed = [(step.operands[places[0].array], places[0].axis) for places in step.flow.sums]
    gone = [
        read.removed[label]
        for ref, axis in summed
        for label in np.unique(labels[arrays.nodes[ref][axis]]).tolist()
        if label in read.removed
    ]
    if not gone:
        return
    sizes: Sequence[Any] = [shape_of(arrays.avals[ref])[axis] for ref, axis in summed]
    found = _Sum(math.prod(size for size in sizes if isinstance(size, int)), gone[0])
    read.sums.update(dict.fromkeys(step.results, found))
    for operand in step.operands:
        # An array of one number, or of another one's numbers times one.
        factor = read.numbers.get(operand, read.factors.get(_source(read, operand)))
        if factor is not None:
            _note(read, found, factor)


def _note(read: _Read, found: _Sum, factor: float) -> None:
    """A sentence, if the factor is one over the count, or over what is made of it."""
    count = found.count
    numbers = {
        f"{count}, as many as there were": count,
        f"{count - 1}, one less than there were": count - 1,
        f"the root of {count}, as many as there were": math.sqrt(count),
    }
    for number, value in numbers.items():
        if value > 1 and math.isclose(factor * value, 1, rel_tol=1e-3):
            what = f"a sum over the channels of {found.name} is still divided by {number}"
            read.notes.append(f"{what}: {ANEW}")
            return


def _split(read: _Read, step: Step) -> None:
    """Channels that are split into parts, as for norms of groups, of which some are removed."""
    arrays, labels = read.found.traced.arrays, read.found.labels
    for result, _, index in step.flow.ties:
        nodes = arrays.nodes[step.results[0]][result.axis]
        gone = [label for label in labels[nodes].tolist() if label in read.removed]
        if index.shape[1] > 1 and gone:
            parts = f"{len(nodes) - len(gone)} of {len(nodes)} parts of {index.shape[1]} channels"
            what = f"of {read.removed[gone[0]]}, {parts} are left, each as it was"
            read.notes.append(f"{what}: {ANEW}")
