"""Calls of functions with derivatives of their own, done again with fewer channels.

The rules of ``jax.custom_jvp`` and ``jax.custom_vjp`` are functions of full arrays. Each is traced
as such, as a program of its own, and is then done again at the sizes that are left, as the function
is. It is kept if nothing of what is removed is fixed or summed over in it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from bbo.compaction import familiar
from bbo.compaction.channels import Channels, components
from bbo.compaction.sizes import Sizes
from bbo.compaction.tracing.arguments import spec_of
from bbo.compaction.tracing.arrays import Program, Step, add, all_steps, bind, empty
from bbo.compaction.tracing.custom import CUSTOM, plain_steps
from bbo.compaction.tracing.program import Traced, read
from bbo.types import Array

Run = Callable[[Sizes, Program, Sequence[Any]], list[Any]]
"""Does a program again, see ``replay``."""


def call_custom(run: Run, sizes: Sizes, step: Step, operands: list[Any]) -> list[Array]:
    """A call of a function with derivatives of its own, which it keeps if it can."""
    inner = {part.primitive.name for part in plain_steps(step.inner[0].steps)}
    if _is_whole(sizes, step) and not inner & familiar.REWRITTEN:
        return bind(step, operands)
    of_kind = {"custom_jvp_call": _with_jvp, "custom_vjp_call": _with_vjp}
    return of_kind[step.primitive.name](run, sizes, step)(*operands)


def without_rules(sizes: Sizes) -> tuple[str, ...]:
    """Names of the functions whose derivatives cannot be kept: they are those of their programs."""
    lost = {
        _name_of(step)
        for step in all_steps(sizes.found.traced.program)
        if step.primitive.name in CUSTOM
        and not _is_whole(sizes, step)
        and not _keeps_rules(sizes, step)
    }
    return tuple(sorted(lost))


def _is_whole(sizes: Sizes, step: Step) -> bool:
    return all(map(sizes.is_whole, (*step.operands, *step.results)))


def _name_of(step: Step) -> str:
    jaxpr = step.params[CUSTOM[step.primitive.name]]
    told = getattr(getattr(jaxpr, "jaxpr", jaxpr), "debug_info", None)
    return getattr(told, "func_name", None) or step.primitive.name


def _keeps_rules(sizes: Sizes, step: Step) -> bool:
    rules = [_jvp_rule] if step.primitive.name == "custom_jvp_call" else [_forward, _backward]
    try:
        return all(rule(sizes, step) is not None for rule in rules)
    except Exception:  # of the function's author: it has no derivative, here as there
        return True


class _Rule(NamedTuple):
    """A part of a derivative, as a program."""

    sizes: Sizes
    program: Program


def _rule_of(
    sizes: Sizes,
    function: Callable[..., Any],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> _Rule | None:
    """A function done with fewer channels; None if it cannot be.

    Args:
      sizes: of the program outside.
      function: of full arrays.
      inputs: arrays outside that those which it takes are like.
      outputs: and those which it gives.
    """
    outside = sizes.found.traced.arrays
    closed = jax.make_jaxpr(function)(*[spec_of(outside.avals[ref]) for ref in inputs])
    arrays = empty()
    given = [
        add(arrays, aval, outside.origins[ref], varies=True)
        for ref, aval in zip(inputs, closed.in_avals, strict=True)
    ]
    program = read(arrays, closed.jaxpr, closed.consts, given)
    labels = components(arrays)
    removed = np.zeros(int(labels.max(initial=0)) + 1, bool)
    alike = list(zip((*inputs, *outputs), (*given, *program.outputs), strict=True))
    for there, here in alike:
        for axis, nodes in enumerate(arrays.nodes[here]):
            removed[labels[nodes[~sizes.kept(there, axis)]]] = True
    small = Sizes(Channels([], Traced(program, arrays, [], None), labels), removed)
    is_same = all(
        np.array_equal(small.kept(here, axis), sizes.kept(there, axis))
        for there, here in alike
        for axis in range(len(arrays.nodes[here]))
    )
    is_fixed = any(removed[labels[nodes]].any() for nodes, _ in arrays.fixed)
    if is_fixed or not is_same or _sums_removed(small, program):
        return None
    return _Rule(small, program)


def _sums_removed(sizes: Sizes, program: Program) -> bool:
    """Whether something is summed over what is removed; in a derivative it may not be zero."""
    return any(
        not sizes.kept(step.operands[place.array], place.axis).all()
        for step in all_steps(program)
        for places in step.flow.sums
        for place in places
    )


def _differentiable(sizes: Sizes, step: Step) -> tuple[list[int], list[int]]:
    """Which operands and which results have derivatives, by their places."""
    avals = sizes.found.traced.arrays.avals
    first = step.params.get("num_consts", 0)  # what the function closes over has none
    return (
        [i for i, ref in enumerate(step.operands) if i >= first and _is_inexact(avals[ref])],
        [i for i, ref in enumerate(step.results) if _is_inexact(avals[ref])],
    )


def _is_inexact(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", bool), jnp.inexact)


def _of_some(step: Step, args: Sequence[Any], some: Sequence[int]) -> Callable[..., list[Any]]:
    """The call as a function of some of its operands."""

    def function(*values: Any) -> list[Any]:
        given = list(args)
        for place, value in zip(some, values, strict=True):
            given[place] = value
        return bind(step, given)

    return function


def _jvp_rule(sizes: Sizes, step: Step, moving: Sequence[int] | None = None) -> _Rule | None:
    """(operands, tangents of those that move) -> (results, tangents of inexact ones)."""
    inexact, results = _differentiable(sizes, step)
    places = inexact if moving is None else moving

    def function(*args: Any) -> list[Any]:
        operands, tangents = args[: len(step.operands)], args[len(step.operands) :]
        values = [operands[place] for place in places]
        out, moved = jax.jvp(_of_some(step, operands, places), values, list(tangents))
        return [*out, *(moved[i] for i in results)]

    return _rule_of(
        sizes,
        function,
        [*step.operands, *(step.operands[place] for place in places)],
        [*step.results, *(step.results[place] for place in results)],
    )


def _with_jvp(run: Run, sizes: Sizes, step: Step) -> Callable[..., list[Any]]:
    inexact, results = _differentiable(sizes, step)
    plain = lambda *args: run(sizes, step.inner[0], args)  # noqa: E731
    custom = jax.custom_jvp(plain)

    def rule(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        moving = [i for i in inexact if type(tangents[i]) is not SymbolicZero]
        found = _jvp_rule(sizes, step, moving)
        if found is None:
            return jax.jvp(plain, primals, [_instantiated(t) for t in tangents])
        outputs = run(*found, [*primals, *(tangents[i] for i in moving)])
        out, moved = outputs[: len(step.results)], iter(outputs[len(step.results) :])
        return out, [
            next(moved) if i in results else np.zeros(jnp.shape(value), jax.dtypes.float0)
            for i, value in enumerate(out)
        ]

    custom.defjvp(rule, symbolic_zeros=step.params["symbolic_zeros"])
    return custom


def _instantiated(tangent: Any) -> Any:
    if type(tangent) is not SymbolicZero:
        return tangent
    aval: Any = tangent.aval
    return jnp.zeros(aval.shape, aval.dtype)


def _forward(sizes: Sizes, step: Step) -> _Rule | None:
    """Operands -> results, as the forward rule has them."""
    inexact, _ = _differentiable(sizes, step)

    def function(*operands: Any) -> list[Any]:
        values = [operands[place] for place in inexact]
        return jax.vjp(_of_some(step, operands, inexact), *values)[0]

    return _rule_of(sizes, function, step.operands, step.results)


def _backward(sizes: Sizes, step: Step) -> _Rule | None:
    """(operands, cotangents of inexact results) -> cotangents of inexact operands."""
    inexact, results = _differentiable(sizes, step)
    avals: list[Any] = sizes.found.traced.arrays.avals

    def function(*args: Any) -> tuple[Any, ...]:
        operands, given = args[: len(step.operands)], iter(args[len(step.operands) :])
        values = [operands[place] for place in inexact]
        _, pull = jax.vjp(_of_some(step, operands, inexact), *values)
        return pull(
            [
                next(given) if i in results else np.zeros(avals[ref].shape, jax.dtypes.float0)
                for i, ref in enumerate(step.results)
            ]
        )

    return _rule_of(
        sizes,
        function,
        [*step.operands, *(step.results[place] for place in results)],
        [step.operands[place] for place in inexact],
    )


def _with_vjp(run: Run, sizes: Sizes, step: Step) -> Callable[..., list[Any]]:
    """What is kept between the rules are the operands; the backward one computes the rest anew."""
    inexact, results = _differentiable(sizes, step)
    plain = lambda *args: run(sizes, step.inner[0], args)  # noqa: E731
    custom = jax.custom_vjp(plain)

    @functools.cache
    def rules() -> tuple[_Rule, _Rule] | None:
        first, second = _forward(sizes, step), _backward(sizes, step)
        return (first, second) if first and second else None

    def forward(*operands: Any) -> tuple[list[Any], tuple[Any, ...]]:
        found = rules()
        return (run(*found[0], operands) if found else plain(*operands)), operands

    def backward(operands: tuple[Any, ...], cotangents: list[Any]) -> tuple[Any, ...]:
        found = rules()
        if found is None:
            return jax.vjp(plain, *operands)[1](cotangents)
        given = run(*found[1], [*operands, *(cotangents[i] for i in results)])
        pulled = dict(zip(inexact, given, strict=True))
        return tuple(pulled.get(i) for i in range(len(operands)))

    custom.defvjp(forward, backward)
    return custom
