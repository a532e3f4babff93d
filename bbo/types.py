"""Names for the things every module passes around, and the one error meant for people."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

Array: TypeAlias = Any
"""A ``jax.Array``, a tracer or a ``numpy.ndarray``."""

PyTree: TypeAlias = Any
"""Any nesting of containers that ``jax.tree`` understands."""

Params: TypeAlias = PyTree
"""Trainable arrays. Convolution kernels are HWIO: ``[kh, kw, in, out]``."""

Masks: TypeAlias = PyTree
"""A tree like ``Params``; each leaf is boolean, True to keep, and broadcasts to its parameter."""

Rng: TypeAlias = Any
"""A new-style key of ``jax.random.key``."""

Batch: TypeAlias = Mapping[str, Array]
"""``image`` [n, h, w, c], ``label`` [n] and ``index`` [n], the position in the global batch."""


class UsageError(ValueError):
    """A mistake of the caller; the message says what was given, what is allowed and what to do.

    Programs print the message alone and exit with status 2.
    """


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raises UsageError: what was given for ``name``, and what is allowed."""
    if not condition:
        raise UsageError(f"{name} is {value!r}; it must be {allowed}")


def require_one_of(choices: Collection[str], name: str, value: Any) -> None:
    """Raises UsageError unless the value is one of the choices."""
    require(value in choices, name, value, "one of " + ", ".join(choices))


class RunError(RuntimeError):
    """A run that cannot go on, through no mistake in a single setting; the message says why.

    Programs print the message alone and exit with status 1.
    """


class Preempted(Exception):
    """The run was told to stop and can go on later; its argument counts the work done.

    Programs save, say so and exit with status 75.
    """


class Interrupted(Preempted):
    """The same by Ctrl-C. Programs save, say so and exit with status 130."""
