"""Functions with derivatives of their own: each call stays one step, so that it keeps them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bbo.compaction.tracing.arguments import spec_of
from bbo.compaction.tracing.arrays import Arrays, Program, Step, opened
from bbo.compaction.tracing.flow.positions import Flow

CUSTOM = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Primitives that call a program and have derivatives that are not those of the program."""


def called(read: Callable[..., Program], arrays: Arrays, equation: Any, operands: Any) -> Step:
    """A step whose inner program has the operands and the results of the step themselves.

    So whoever asks for values alone may take the inner steps instead, see ``plain_steps``.
    """
    jaxpr, consts = opened(equation.params[CUSTOM[equation.primitive.name]])
    part = read(arrays, jaxpr, consts, operands)
    steps, outputs = list(part.steps), []
    for ref in part.outputs:
        if ref in operands or ref in outputs or ref in arrays.constants:
            # It has another derivative than what it equals, and so needs a number of its own.
            copy = jax.make_jaxpr(jnp.copy)(spec_of(arrays.avals[ref]))
            copied = read(arrays, copy.jaxpr, copy.consts, [ref])
            steps += copied.steps
            ref = copied.outputs[0]
        outputs.append(ref)
    inner = Program(tuple(operands), tuple(outputs), steps)
    return Step(equation.primitive, equation.params, operands, inner.outputs, Flow(), (inner,))


def plain_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """All steps; those of functions with derivatives of their own instead of the calls."""
    for step in steps:
        if step.primitive.name in CUSTOM:
            yield from plain_steps(step.inner[0].steps)
        else:
            yield step
