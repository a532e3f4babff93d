"""Primitives that move positions about."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bbo.compaction.tracing.flow.arithmetic import elementwise
from bbo.compaction.tracing.flow.positions import (
    SINGLED_OUT,
    Call,
    Flow,
    Place,
    Shape,
    Split,
    Tie,
    all_of,
    length,
    same,
    unknown,
)

SYMBOL = "it is joined to an axis whose size is a symbol"


def broadcast_in_dim(call: Call) -> Flow:
    """Named axes pass, unless they are repeated; all others are new."""
    pairs = [
        (out, axis)
        for axis, out in enumerate(call.params["broadcast_dimensions"])
        if length(call.operands[0][axis]) == length(call.results[0][out])
    ]
    passed = {axis for _, axis in pairs}
    repeated = [axis for axis in range(len(call.operands[0])) if axis not in passed]
    return Flow(same(call, pairs), fixed_operands=_singled_out(repeated))


def _singled_out(axes: Iterable[int]) -> list[tuple[Place, str]]:
    return [(Place(0, axis), SINGLED_OUT) for axis in axes]


def transpose(call: Call) -> Flow:
    """Axes change places."""
    return Flow(same(call, list(enumerate(call.params["permutation"]))))


def squeeze(call: Call) -> Flow:
    """Axes of one position vanish."""
    gone = {axis % len(call.operands[0]) for axis in call.params["dimensions"]}
    kept = [axis for axis in range(len(call.operands[0])) if axis not in gone]
    return Flow(same(call, list(enumerate(kept))), fixed_operands=_singled_out(gone))


def blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The axes of two shapes of one size that a reshape turns into each other.

    >>> blocks((2, 3, 4, 5), (6, 4, 1, 5))
    [([0, 1], [0]), ([2], [1]), ([], [2]), ([3], [3])]
    """
    found, i, j = [], 0, 0
    while i < len(old) and j < len(new) and _is(old[i], new[j]):
        found.append(([i], [j]))
        i, j = i + 1, j + 1
    end, behind = (len(old), len(new)), []
    while end[0] > i and end[1] > j and _is(old[end[0] - 1], new[end[1] - 1]):
        end = end[0] - 1, end[1] - 1
        behind.insert(0, ([end[0]], [end[1]]))
    left, right = list(range(i, end[0])), list(range(j, end[1]))
    if not all(isinstance(old[a], int) for a in left) or not all(
        isinstance(new[b], int) for b in right
    ):
        return [*found, (left, right), *behind]
    while left or right:
        a, b = [], []
        while True:
            sizes = math.prod(old[k] for k in a), math.prod(new[k] for k in b)
            if a and b and sizes[0] == sizes[1]:
                break
            source, target = (left, a) if (sizes[0] < sizes[1] or not a) and left else (right, b)
            if not source:
                break
            target.append(source.pop(0))
        found.append((a, b))
    return [*found, *behind]


def _is(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def reshape(call: Call) -> Flow:
    """Axes pass; merged ones with the one that carries channels, split ones with one of them."""
    old, new = call.operands[0], call.results[0]
    if call.params.get("dimensions") is not None:
        return unknown("reshape with dimensions")(call)
    ties, fixed_operands, fixed_results, splits = [], [], [], []
    for before, after in blocks(old, new):
        if len(before) == len(after) == 1:
            ties += same(call, [(after[0], before[0])])
            continue
        fixed_operands += _singled_out(axis for axis in before if old[axis] == 1)
        before = [axis for axis in before if old[axis] != 1]
        after = [axis for axis in after if new[axis] != 1]
        if not before:
            continue
        carried = [axis for axis in before if call.carried[0][axis]]
        if len(before) == len(after) == 1 and _is(old[before[0]], new[after[0]]):
            ties += same(call, [(after[0], before[0])])
        elif len(after) == 1 and len(carried) == 1 and isinstance(new[after[0]], int):
            others = [axis for axis in before if axis not in carried]
            ties.append(
                Tie(Place(0, after[0]), Place(0, carried[0]), _merged(old, before, carried[0]))
            )
            fixed_operands += [(Place(0, axis), "it is merged with channels") for axis in others]
        elif len(before) == 1 and carried and _are_numbers(old, before, new, after):
            split = Split(before[0], tuple(new[axis] for axis in after))
            chosen = call.choices.get(split.sizes, 0)
            grid = np.moveaxis(np.arange(old[before[0]]).reshape(split.sizes), chosen, 0)
            index = grid.reshape(split.sizes[chosen], -1)
            ties.append(Tie(Place(0, after.pop(chosen)), Place(0, before[0]), index))
            reason = "it is a part of channels that were split"
            fixed_results += [(Place(0, axis), reason) for axis in after]
            splits.append(split)
        elif carried:
            reason = f"a reshape from {list(old)} to {list(new)} mixes axes"
            fixed_operands += [(Place(0, axis), reason) for axis in before]
            fixed_results += [(Place(0, axis), reason) for axis in after]
        else:
            reason = "it was reshaped"
            fixed_operands += [(Place(0, axis), reason) for axis in before]
            fixed_results += [(Place(0, axis), reason) for axis in after]
    return Flow(ties, (), (), fixed_operands, fixed_results, splits)


def _are_numbers(old: Shape, before: list[int], new: Shape, after: list[int]) -> bool:
    return all(
        isinstance(size, int) for size in [*(old[a] for a in before), *(new[a] for a in after)]
    )


def _merged(shape: Shape, axes: Sequence[int], axis: int) -> np.ndarray:
    """For each position of merged axes, which position it is along one of them."""
    grid = np.indices([length(shape[a]) for a in axes])[list(axes).index(axis)]
    return grid.reshape(-1, 1)


def concatenate(call: Call) -> Flow:
    """One after the other along an axis."""
    along_axis, ties, start = call.params["dimension"], [], 0
    if not isinstance(call.results[0][along_axis], int):
        fixed = [(Place(i, along_axis), SYMBOL) for i in range(len(call.operands))]
        ties = [tie for tie in elementwise(call).ties if tie.result.axis != along_axis]
        return Flow(ties, fixed_operands=fixed)
    for operand, shape in enumerate(call.operands):
        for axis, size in enumerate(shape):
            index = all_of(size)
            if axis == along_axis:
                index = np.full((length(call.results[0][axis]), 1), -1)
                index[start : start + length(size), 0] = np.arange(length(size))
                start += length(size)
            ties.append(Tie(Place(0, axis), Place(operand, axis), index))
    return Flow(ties)


def stack(call: Call) -> Flow:
    """One beside the other along a new axis."""
    new, pairs = call.params["axis"], list(range(len(call.operands[0])))
    return Flow(
        [
            tie
            for operand in range(len(call.operands))
            for tie in same(call, [(a + (a >= new), a) for a in pairs], operand=operand)
        ],
        fixed_results=[(Place(0, new), "arrays are stacked along it")],
    )


def unstack(call: Call) -> Flow:
    """A result for each position of an axis, without that axis."""
    gone, kept = call.params["axis"], list(range(len(call.results[0])))
    return Flow(
        [
            Tie(Place(result, axis), Place(0, axis + (axis >= gone)), all_of(size))
            for result, shape in enumerate(call.results)
            for axis, size in zip(kept, shape, strict=True)
        ],
        fixed_operands=_singled_out([gone]),
    )


def tile(call: Call) -> Flow:
    """Repeated as a whole along each axis; a single position is repeated into new ones."""
    old, new = call.operands[0], call.results[0]
    repeated = [axis for axis in range(len(new)) if old[axis] == 1 and new[axis] != 1]
    return Flow(
        [
            Tie(Place(0, axis), Place(0, axis), all_of(size) % length(old[axis]))
            for axis, size in enumerate(new)
            if axis not in repeated
        ],
        fixed_operands=_singled_out(repeated),
    )


def split(call: Call) -> Flow:
    """Parts of an axis."""
    ties, starts = [], np.cumsum([0, *call.params["sizes"]])
    for result, shape in enumerate(call.results):
        for axis, size in enumerate(shape):
            if axis == call.params["axis"] and not isinstance(call.operands[0][axis], int):
                continue
            shift = starts[result] if axis == call.params["axis"] else 0
            ties.append(Tie(Place(result, axis), Place(0, axis), all_of(size) + shift))
    return Flow(ties)


def slicing(call: Call) -> Flow:
    """Every so-many-th position from one to another."""
    starts = call.params["start_indices"]
    strides = call.params["strides"] or (1,) * len(starts)
    return Flow(
        [
            Tie(Place(0, axis), Place(0, axis), all_of(size) * stride + start)
            for axis, (size, start, stride) in enumerate(
                zip(call.results[0], starts, strides, strict=True)
            )
            if isinstance(call.operands[0][axis], int)
        ]
    )


def padding(call: Call) -> Flow:
    """Positions before, between and behind are new, or some are cut off."""
    ties = []
    for axis, (low, _, inner) in enumerate(call.params["padding_config"]):
        size, old = length(call.results[0][axis]), length(call.operands[0][axis])
        position = np.arange(size) - (low if isinstance(call.results[0][axis], int) else 0)
        source, rest = np.divmod(position, inner + 1)
        is_old = (rest == 0) & (source >= 0) & (source < old)
        ties.append(Tie(Place(0, axis), Place(0, axis), np.where(is_old, source, -1)[:, None]))
    return Flow(ties)


def reverse(call: Call) -> Flow:
    """Some axes backwards."""
    return Flow(
        [
            tie._replace(index=tie.index[::-1])
            if tie.result.axis in call.params["dimensions"]
            else tie
            for tie in elementwise(call).ties
        ]
    )


def iota(call: Call) -> Flow:
    """The numbers of the positions, which they keep when others are removed."""
    del call
    return Flow()
