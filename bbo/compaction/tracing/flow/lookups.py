"""Primitives that take or write at places that are computed."""

from bbo.compaction.tracing.flow.positions import Call, Flow, Place, same


def gather(call: Call) -> Flow:
    """Axes of the operand that are taken whole pass; those that are looked up in are fixed."""
    numbers = call.params["dimension_numbers"]
    sizes = call.params["slice_sizes"]
    hidden = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    shown = [axis for axis in range(len(call.operands[0])) if axis not in hidden]
    whole = {
        axis: out
        for axis, out in zip(shown, numbers.offset_dims, strict=True)
        if axis not in numbers.start_index_map and sizes[axis] == call.operands[0][axis]
    }
    places = [out for out in range(len(call.results[0])) if out not in numbers.offset_dims]
    ties = [
        *same(call, [(out, axis) for axis, out in whole.items()]),
        *same(call, list(zip(places, range(len(call.operands[1]) - 1), strict=True)), operand=1),
    ]
    reason = "positions are looked up along it (gather)"
    looked_up = [axis for axis in range(len(call.operands[0])) if axis not in whole]
    fixed = [(Place(0, axis), reason) for axis in looked_up]
    fixed.append((Place(1, len(call.operands[1]) - 1), "it holds indices"))
    return Flow(ties, fixed_operands=fixed)


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
