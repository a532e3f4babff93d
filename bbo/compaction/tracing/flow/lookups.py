"""Primitives that take or write at places that are computed."""

import numpy as np

from bbo.compaction.tracing.flow.positions import Call, Flow, Place, Tie, same


def gather(call: Call) -> Flow:
    """Axes of the operand that are taken whole pass; those that are looked up in are fixed.

    Known places along a single axis of channels are followed, as those of a permutation. Axes of a
    batch, each position with indices of its own, are those of the indices too.
    """
    numbers, sizes = call.params["dimension_numbers"], call.params["slice_sizes"]
    hidden = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    shown = [axis for axis in range(len(call.operands[0])) if axis not in hidden]
    passed = {
        axis: out
        for axis, out in zip(shown, numbers.offset_dims, strict=True)
        if axis not in numbers.start_index_map and sizes[axis] == call.operands[0][axis]
    }
    places = [out for out in range(len(call.results[0])) if out not in numbers.offset_dims]
    for axis, of_indices in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        if call.operands[0][axis] != 1:  # of a single position, none can be left out
            passed[axis] = places[of_indices]
    ties = [
        *same(call, [(out, axis) for axis, out in passed.items()]),
        *same(call, list(zip(places, range(len(call.operands[1]) - 1), strict=True)), operand=1),
    ]
    if (along := _followed(call)) is not None:
        passed[along] = places[0]
        ties.append(Tie(Place(0, places[0]), Place(0, along), np.asarray(call.places)))
    reason = "positions are looked up along it (gather)"
    looked_up = [axis for axis in range(len(call.operands[0])) if axis not in passed]
    fixed = [(Place(0, axis), reason) for axis in looked_up]
    fixed.append((Place(1, len(call.operands[1]) - 1), "it holds indices"))
    return Flow(ties, fixed_operands=fixed)


def _followed(call: Call) -> int | None:
    """The only axis that is looked up in, if it has channels and all places are known."""
    axes, places = call.params["dimension_numbers"].start_index_map, call.places
    if places is None or places.ndim != 2 or len(axes) != 1 or not call.carried[0][axes[0]]:
        return None
    is_single = call.params["dimension_numbers"].collapsed_slice_dims == axes
    in_range = places.min(initial=0) >= 0 and places.max(initial=0) < call.operands[0][axes[0]]
    return axes[0] if is_single and in_range else None


def dynamic_slice(call: Call) -> Flow:
    """Axes that are taken whole pass."""
    whole = [
        axis
        for axis, size in enumerate(call.params["slice_sizes"])
        if size == call.operands[0][axis]
    ]
    fixed = [
        (Place(0, axis), "a part of it is taken whose place is computed")
        for axis in range(len(call.operands[0]))
        if axis not in whole
    ]
    return Flow(same(call, [(axis, axis) for axis in whole]), fixed_operands=fixed)


def dynamic_update_slice(call: Call) -> Flow:
    """Axes that are written whole pass."""
    old, new = call.operands[:2]
    whole = [axis for axis, size in enumerate(new) if size == old[axis]]
    ties = [
        *same(call, [(axis, axis) for axis in range(len(old))]),
        *same(call, [(axis, axis) for axis in whole], operand=1),
    ]
    reason = "a part of it is written whose place is computed"
    partial = [axis for axis in range(len(old)) if axis not in whole]
    fixed = [(Place(i, axis), reason) for axis in partial for i in (0, 1)]
    return Flow(ties, fixed_operands=fixed)


def scatter(call: Call) -> Flow:
    """Axes that are written whole pass; those along which places are computed are fixed.

    Axes of a batch, each position with indices of its own, are those of all three operands.
    """
    numbers = call.params["dimension_numbers"]
    old, indices, new = call.operands
    batches = dict(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    windows = [axis for axis in range(len(old)) if axis not in numbers.inserted_window_dims]
    windows = [axis for axis in windows if axis not in batches]
    written = {
        axis: update
        for axis, update in zip(windows, numbers.update_window_dims, strict=True)
        if axis not in numbers.scatter_dims_to_operand_dims and new[update] == old[axis]
    }
    places = [axis for axis in range(len(new)) if axis not in numbers.update_window_dims]
    paired = [axis for axis in batches if old[axis] != 1]
    written |= {axis: places[batches[axis]] for axis in paired}
    ties = [
        *same(call, [(axis, axis) for axis in range(len(old))]),
        *same(call, [(axis, batches[axis]) for axis in paired], operand=1),
        *same(call, list(written.items()), operand=2),
    ]
    reason = "positions are written along it whose places are computed (scatter)"
    loose = [
        (0, set(range(len(old))) - {*written}),
        (1, set(range(len(indices))) - {batches[axis] for axis in paired}),
        (2, set(range(len(new))) - {*written.values()}),
    ]
    fixed = [(Place(array, axis), reason) for array, axes in loose for axis in sorted(axes)]
    return Flow(ties, fixed_operands=fixed)


SCATTERS = tuple(f"scatter{kind}" for kind in ("", "-add", "-sub", "-mul", "-min", "-max"))
WRITTEN = {"dynamic_update_slice": 1, **dict.fromkeys(SCATTERS, 2)}
"""Primitives that write into their first operand, and which operand is written."""
