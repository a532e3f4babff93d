"""A function done again with fewer channels: the same primitives, at the sizes that are left."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bbo.compaction.channels import Channels, Cut, find_channels, removed_labels
from bbo.compaction.tracing.arrays import Program, Step
from bbo.compaction.tracing.flow.draws import DRAWN
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.compaction.tracing.updates import Updates
from bbo.types import Array, PyTree


class _Sizes(NamedTuple):
    """What is left of a program."""

    found: Channels
    removed: np.ndarray
    """bool, by label."""

    def kept(self, ref: int, axis: int) -> np.ndarray:
        """bool [positions]."""
        return ~self.removed[self.found.labels[self.found.traced.arrays.nodes[ref][axis]]]

    def shape(self, ref: int) -> tuple[Any, ...]:
        """Of an array, with what is left of each axis."""
        full = shape_of(self.found.traced.arrays.avals[ref])
        return tuple(
            int(self.kept(ref, axis).sum()) if isinstance(size, int) else size
            for axis, size in enumerate(full)
        )


def smaller_function(
    function: Callable[..., PyTree], variables: PyTree, cut: Cut, updates: Updates | None = None
) -> Callable[..., PyTree]:
    """The function of what ``smaller`` gives: its program, with the sizes that are left.

    It is traced for each shape of the inputs. Random numbers made within, as by dropout, are those
    of the whole network that belong to what is left. Its derivatives are those of its primitives:
    rules of ``jax.custom_jvp`` and ``jax.custom_vjp`` are not kept.

    Args:
      function: of all variables.
      variables: before the cut; shapes and dtypes suffice.
      cut: see there.
      updates: see ``channels.find_channels``; these results have the sizes that are left.
    """

    def small(leaves: PyTree, *inputs: PyTree) -> PyTree:
        found = find_channels(function, variables, *inputs, updates=updates)
        sizes = _Sizes(found, removed_labels(found, cut))
        given = [*jax.tree.leaves(leaves), *jax.tree.leaves(inputs)]
        outputs = _run(sizes, found.traced.program, given)
        return jax.tree.unflatten(found.traced.result, outputs)

    return small


def _run(sizes: _Sizes, program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The primitives of a program, one after the other."""
    known = dict(zip(program.inputs, inputs, strict=True))
    constants = sizes.found.traced.arrays.constants

    def value_of(ref: int) -> Any:
        if ref not in known:
            value = constants[ref]
            for axis in range(np.ndim(value)):
                kept = sizes.kept(ref, axis)
                if not kept.all():
                    value = _positions(jnp.asarray(value), np.flatnonzero(kept), axis)
            known[ref] = value
        return known[ref]

    for step in program.steps:
        operands = [value_of(ref) for ref in step.operands]
        resize = RESIZED.get(step.primitive.name)
        if resize:
            results = resize(sizes, step, operands)
        else:
            results = step.primitive.bind(*operands, **step.params)
        if not step.primitive.multiple_results:
            results = [results]
        known |= dict(zip(step.results, results, strict=True))
    return [value_of(ref) for ref in program.outputs]


def _broadcast_in_dim(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    dims = step.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(operands[0], sizes.shape(step.results[0]), dims)


def _reshape(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    return lax.reshape(operands[0], sizes.shape(step.results[0]), step.params.get("dimensions"))


def _iota(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    del operands
    shape = sizes.shape(step.results[0])
    return lax.broadcasted_iota(step.params["dtype"], shape, step.params["dimension"])


def _drawn(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    """Random bits: all, and of these what is left. The compiler makes no more than is read."""
    x = step.primitive.bind(*operands, **step.params)
    for axis in range(operands[0].ndim, x.ndim):
        x = _positions(x, np.flatnonzero(sizes.kept(step.results[0], axis)), axis)
    return x


def _taken(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    """Slices: as before, but along axes of which something is removed."""
    x, ref, params = operands[0], step.operands[0], step.params
    indices = {tie.operand.axis: tie.index[:, 0] for tie in step.flow.ties}
    strides = params["strides"] or (1,) * x.ndim
    for axis, (start, limit, stride) in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        kept = sizes.kept(ref, axis)
        if kept.all():
            x = lax.slice_in_dim(x, start, limit, stride, axis)
        else:
            wanted = sizes.kept(step.results[0], axis)
            x = _positions(x, (np.cumsum(kept) - 1)[indices[axis][wanted]], axis)
    return x


def _positions(x: Array, index: np.ndarray, axis: int) -> Array:
    """Positions along an axis; a slice if they are evenly spaced."""
    steps = np.diff(index)
    if len(index) == x.shape[axis] and (steps == 1).all():
        return x
    if len(index) and (steps == steps[:1]).all() and (steps > 0).all():
        stride = int(steps[0]) if len(steps) else 1
        return lax.slice_in_dim(x, int(index[0]), int(index[-1]) + 1, stride, axis)
    return jnp.take(x, index, axis=axis, mode="clip")


def _split(sizes: _Sizes, step: Step, operands: list[Any]) -> list[Array]:
    axis = step.params["axis"]
    parts = tuple(sizes.shape(ref)[axis] for ref in step.results)
    return list(lax.split(operands[0], parts, axis))


def _pad(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    """Axes of which nothing is removed as before; on others, positions or the padding value."""
    x, value = operands
    config = []
    for tie, padding in zip(step.flow.ties, step.params["padding_config"], strict=True):
        axis = tie.operand.axis
        kept, wanted = sizes.kept(step.operands[0], axis), sizes.kept(step.results[0], axis)
        if kept.all() and wanted.all():
            config.append(padding)
            continue
        config.append((0, 0, 0))
        index = tie.index[wanted, 0]
        index = np.where(index < 0, kept.sum(), (np.cumsum(kept) - 1)[index])
        behind = [(0, int(a == axis), 0) for a in range(x.ndim)]
        x = jnp.take(lax.pad(x, value, behind), index, axis=axis, mode="clip")
    return lax.pad(x, value, config)


def _convolution(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    params = dict(step.params)
    if params["feature_group_count"] != 1:
        numbers = params["dimension_numbers"]
        inputs = operands[0].shape[numbers.lhs_spec[1]]
        params["feature_group_count"] = inputs // operands[1].shape[numbers.rhs_spec[1]]
    return step.primitive.bind(*operands, **params)


def _sliced(sizes: _Sizes, step: Step, operands: list[Any]) -> Array:
    """``dynamic_slice`` and ``gather``: axes that are taken whole are as long as they are now."""
    full = shape_of(sizes.found.traced.arrays.avals[step.operands[0]])
    now = operands[0].shape
    slice_sizes = tuple(
        new if size == old else size
        for size, old, new in zip(step.params["slice_sizes"], full, now, strict=True)
    )
    return step.primitive.bind(*operands, **step.params | {"slice_sizes": slice_sizes})


def _scan(sizes: _Sizes, step: Step, operands: list[Any]) -> list[Array]:
    params, (program,) = step.params, step.inner
    first, number = params["num_consts"], params["num_carry"]
    consts, carry, parts = (
        operands[:first],
        operands[first : first + number],
        operands[first + number :],
    )

    def body(carry: list[Array], part: list[Array]) -> tuple[list[Array], list[Array]]:
        outputs = _run(sizes, program, [*consts, *carry, *part])
        return outputs[:number], outputs[number:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, stacked = lax.scan(body, carry, parts, **options)
    return [*carry, *stacked]


def _while(sizes: _Sizes, step: Step, operands: list[Any]) -> list[Array]:
    condition, body = step.inner
    first = step.params["cond_nconsts"]
    second = first + step.params["body_nconsts"]
    return lax.while_loop(
        lambda carry: _run(sizes, condition, [*operands[:first], *carry])[0],
        lambda carry: _run(sizes, body, [*operands[first:second], *carry]),
        operands[second:],
    )


def _cond(sizes: _Sizes, step: Step, operands: list[Any]) -> list[Array]:
    index, *rest = operands
    branches = [lambda *args, p=program: _run(sizes, p, args) for program in step.inner]
    return lax.switch(index, branches, *rest)


RESIZED: dict[str, Callable[[_Sizes, Step, list[Any]], Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "iota": _iota,
    **dict.fromkeys(DRAWN, _drawn),
    "slice": _taken,
    "split": _split,
    "pad": _pad,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _sliced,
    "gather": _sliced,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""Primitives with sizes in their parameters."""
