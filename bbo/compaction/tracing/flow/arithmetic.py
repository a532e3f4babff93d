"""Primitives that compute: position by position, over an axis, or as products."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bbo.compaction.tracing.flow.positions import (
    SINGLED_OUT,
    Call,
    Flow,
    Place,
    Tie,
    all_of,
    length,
    same,
    unknown,
)


def elementwise(call: Call) -> Flow:
    """All operands and results position by position; one of size 1 is repeated."""
    ties, repeated = [], []
    for result, shape in enumerate(call.results):
        for operand, given in enumerate(call.operands):
            for axis, size in enumerate(shape if len(given) == len(shape) else ()):
                place = Place(operand, axis)
                if length(given[axis]) == length(size):
                    ties.append(Tie(Place(result, axis), place, all_of(size)))
                else:
                    repeated.append((place, SINGLED_OUT))
    return Flow(ties, fixed_operands=repeated)


def bitcast(call: Call) -> Flow:
    """Position by position, between types of one width."""
    alike = len(call.operands[0]) == len(call.results[0])
    return (elementwise if alike else unknown("bitcast_convert_type"))(call)


def each_by_itself(call: Call) -> Flow:
    """Result i is operand i."""
    return Flow(
        [
            Tie(Place(i, axis), Place(i, axis), all_of(size))
            for i, shape in enumerate(call.results)
            for axis, size in enumerate(shape)
        ]
    )


def along(name: str, reason: str) -> Callable[[Call], Flow]:
    """All axes pass but those that ``call.params[name]`` names, which are fixed."""

    def rule(call: Call) -> Flow:
        named = _axes(call.params[name])
        ties = [tie for tie in elementwise(call).ties if tie.result.axis not in named]
        fixed = [(Place(i, axis), reason) for i in range(len(call.operands)) for axis in named]
        results = [(Place(i, axis), reason) for i in range(len(call.results)) for axis in named]
        return Flow(ties, fixed_operands=fixed, fixed_results=results)

    return rule


def fourier(call: Call) -> Flow:
    """The last axes are transformed, the others pass."""
    passed = len(call.operands[0]) - len(call.params["fft_lengths"])
    reason = "a Fourier transform runs along it"
    return Flow(
        same(call, [(axis, axis) for axis in range(passed)]),
        fixed_operands=[(Place(0, a), reason) for a in range(passed, len(call.operands[0]))],
        fixed_results=[(Place(0, a), reason) for a in range(passed, len(call.results[0]))],
    )


def _axes(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def reduction(reason: str = "") -> Callable[[Call], Flow]:
    """Axes that vanish: summed over, or fixed for a reason."""

    def rule(call: Call) -> Flow:
        gone = set(call.params["axes"])
        kept = [axis for axis in range(len(call.operands[0])) if axis not in gone]
        places = [Place(0, axis) for axis in gone]
        ties = same(call, list(enumerate(kept)))
        if reason:
            return Flow(ties, fixed_operands=[(place, reason) for place in places])
        return Flow(ties, sums=[(place,) for place in places])

    return rule


def over_devices(call: Call) -> Flow:
    """Axes of arrays that ``jax.vmap`` named vanish in sums over them; all others pass."""
    gone = {axis for axis in call.params["axes"] if isinstance(axis, int)}
    ties, sums = [], []
    for number, (shape, new) in enumerate(zip(call.operands, call.results, strict=True)):
        kept = [axis for axis in range(len(shape)) if axis not in gone]
        ties += [
            Tie(Place(number, out), Place(number, axis), all_of(new[out]))
            for out, axis in enumerate(kept)
        ]
        sums += [(Place(number, axis),) for axis in gone]
    return Flow(ties, sums=sums)


def dot_general(call: Call) -> Flow:
    """Batch axes first, then those of the left that are not summed over, then of the right."""
    (contract_left, contract_right), (batch_left, batch_right) = call.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*contract, *batch)]
        for shape, contract, batch in zip(
            call.operands, (contract_left, contract_right), (batch_left, batch_right), strict=True
        )
    ]
    number = len(batch_left)
    ties = [
        *same(call, list(enumerate((*batch_left, *free[0])))),
        *same(call, list(enumerate(batch_right)), operand=1),
        *same(call, [(number + len(free[0]) + i, a) for i, a in enumerate(free[1])], operand=1),
    ]
    summed = [
        (Place(0, left), Place(1, right))
        for left, right in zip(contract_left, contract_right, strict=True)
    ]
    return Flow(ties, joins=summed, sums=summed)


def convolution(call: Call) -> Flow:
    """Output channels are those of the kernel; input channels are summed over.

    Of several groups, each lives or dies as a whole: its input channels, its filters, and what
    they put out.
    """
    numbers, groups = call.params["dimension_numbers"], call.params["feature_group_count"]
    (batch, features, *image), (out, inputs, *window) = numbers.lhs_spec, numbers.rhs_spec
    out_batch, out_features, *_ = numbers.out_spec
    if call.params["batch_group_count"] != 1:
        return unknown("a convolution with groups of the batch")(call)
    fixed = [(Place(0, axis), "the window of a convolution moves along it") for axis in image]
    fixed += [(Place(1, axis), "it is within the window of a convolution") for axis in window]
    ties = [
        *same(call, [(out_batch, batch)]),
        *same(call, [(out_features, out)], operand=1),
    ]
    pair = (Place(0, features), Place(1, inputs))
    if groups == 1:
        return Flow(ties, joins=[pair], sums=[pair], fixed_operands=fixed)
    channels, filters = call.operands[0][features], call.operands[1][out]
    of_group = np.arange(channels).reshape(groups, -1)
    ties.append(Tie(Place(0, out_features), pair[0], np.repeat(of_group, filters // groups, 0)))
    return Flow(
        ties, fixed_operands=[*fixed, (pair[1], "it is shared by the groups of a convolution")]
    )


def window(call: Call) -> Flow:
    """Pooling: axes along which the window is one position pass."""
    params = call.params
    still = [
        axis
        for axis in range(len(call.operands[0]))
        if (params["window_dimensions"][axis], params["window_strides"][axis]) == (1, 1)
        and tuple(params["padding"][axis]) == (0, 0)
        and params["base_dilation"][axis] == 1
    ]
    moving = [axis for axis in range(len(call.operands[0])) if axis not in still]
    reason = "the window of a pooling moves along it"
    return Flow(
        same(call, [(axis, axis) for axis in still]),
        fixed_operands=[(Place(0, axis), reason) for axis in moving],
    )
