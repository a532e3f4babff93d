"""A function done again with fewer channels: the same primitives, at the sizes that are left."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from bbo import trees
from bbo.compaction import resizing
from bbo.compaction.channels import Channels, Cut, find_channels
from bbo.compaction.derivatives import call_custom
from bbo.compaction.resizing import taken
from bbo.compaction.sizes import Sizes, sizes_of
from bbo.compaction.tracing.arguments import key_of, spec_of, split
from bbo.compaction.tracing.arrays import Program, Step, bind
from bbo.compaction.tracing.flow.positions import Choices, shape_of
from bbo.compaction.tracing.updates import Updates
from bbo.types import Array, PyTree, UsageError


def smaller_function(
    function: Callable[..., PyTree],
    example: Channels,
    cut: Cut,
    *,
    check: Callable[[Channels], None],
    updates: Updates | None = None,
    parts: Choices = MappingProxyType({}),
) -> Callable[..., PyTree]:
    """The function of what ``smaller`` gives: its program, with the sizes that are left.

    It is traced for each shape and dtype of what it is given, once, and for all else that it is
    given, such as ``train=False``. Rules of ``jax.custom_jvp`` and ``jax.custom_vjp`` are kept, see
    ``derivatives``. Random numbers made within, as by dropout, are those of the whole network that
    belong to what is left.

    Args:
      function: of all variables.
      example: its channels.
      cut: see there.
      check: raises an error if the cut cannot be made of the channels that are found for others.
      updates: see ``channels.find_channels``; these results have the sizes that are left.
      parts: see there, too.
    """
    programs = {example.traced.key: sizes_of(example, cut)}

    def small(leaves: PyTree, *inputs: PyTree, **kwargs: PyTree) -> PyTree:
        full = _full_shapes(example, cut, leaves)
        arguments = split((inputs, kwargs))
        key = key_of(full, arguments)
        sizes = programs.get(key) if key else None
        if sizes is None:
            found = find_channels(function, full, *inputs, updates=updates, parts=parts, **kwargs)
            check(found)
            sizes = sizes_of(found, cut)
            if key and not _holds_tracers(found):
                programs[key] = sizes
        traced = sizes.found.traced
        given = [*jax.tree.leaves(leaves), *arguments.arrays]
        values = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in given]
        outputs = _run(sizes, traced.program, values)
        return jax.tree.unflatten(traced.result, outputs)

    return small


def _full_shapes(example: Channels, cut: Cut, leaves: PyTree) -> PyTree:
    """The shapes of variables before the cut, from those after.

    Raises:
      UsageError: they are not those that the cut has left.
    """
    names, avals = example.traced.names, example.traced.arrays.avals
    if trees.names(leaves) != names:
        given = ", ".join(trees.names(leaves))
        raise UsageError(f"these are other variables: {given}; give those of small.variables")

    def grown(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
        spec = spec_of(leaf)
        full = shape_of(avals[names.index(name)])
        removed = [len(cut.get((name, axis), ())) for axis in range(len(full))]
        left = [size - gone for size, gone in zip(full, removed, strict=True)]
        if len(spec.shape) != len(full) or any(
            gone and size != wanted
            for size, wanted, gone in zip(spec.shape, left, removed, strict=True)
        ):
            raise UsageError(
                f"{name} has the shape {spec.shape}, but {tuple(left)} is what is left of "
                f"{tuple(full)}; give the arrays of small.variables, or others of their shapes"
            )
        sizes = tuple(size + gone for size, gone in zip(spec.shape, removed, strict=True))
        return jax.ShapeDtypeStruct(sizes, spec.dtype, weak_type=spec.weak_type)

    return trees.map_named(grown, leaves)


def _holds_tracers(found: Channels) -> bool:
    """Whether the function has closed over what is only there while something else is traced."""
    constants = found.traced.arrays.constants.values()
    return any(isinstance(value, Tracer) for value in constants)


def _run(sizes: Sizes, program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The primitives of a program, one after the other."""
    known = dict(zip(program.inputs, inputs, strict=True))
    constants = sizes.found.traced.arrays.constants

    def value_of(ref: int) -> Any:
        if ref not in known:
            value = constants[ref]
            for axis in range(np.ndim(value)):
                kept = sizes.kept(ref, axis)
                if not kept.all():
                    value = taken(jnp.asarray(value), np.flatnonzero(kept), axis)
            known[ref] = value
        return known[ref]

    for step in program.steps:
        operands = [value_of(ref) for ref in step.operands]
        resize = RESIZED.get(step.primitive.name)
        if resize:
            results = resize(sizes, step, operands)
        else:
            results = bind(step, operands)
        if not step.primitive.multiple_results:
            results = [results]
        known |= dict(zip(step.results, results, strict=True))
    return [value_of(ref) for ref in program.outputs]


def _scan(sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    params, (program,) = step.params, step.inner
    first, number = step.scanned
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


def _while(sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    condition, body = step.inner
    first = step.params["cond_nconsts"]
    second = first + step.params["body_nconsts"]
    return lax.while_loop(
        lambda carry: _run(sizes, condition, [*operands[:first], *carry])[0],
        lambda carry: _run(sizes, body, [*operands[first:second], *carry]),
        operands[second:],
    )


def _cond(sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    index, *rest = operands
    branches = [lambda *args, p=program: _run(sizes, p, args) for program in step.inner]
    return lax.switch(index, branches, *rest)


def _custom(sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    return call_custom(_run, sizes, step, operands)


RESIZED: dict[str, Callable[[Sizes, Step, list[Any]], Any]] = resizing.RESIZED | {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_jvp_call": _custom,
    "custom_vjp_call": _custom,
}
"""What is done instead of a primitive with sizes in its parameters, or programs within it."""
