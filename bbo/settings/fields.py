"""The fields of a section of settings: a default, a help text, what is allowed."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from bbo.types import UsageError, require, require_one_of

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
}
"""The types that settings have, in words."""

LARGEST = 2**32 - 1
"""Of whole numbers: of what jax takes for a seed; more steps, images or filters nobody has."""


def setting(
    default: Any, help: str, *, one_of: Collection[str] = (), some_of: Collection[str] = ()
) -> Any:
    """A field of a frozen dataclass.

    Args:
      default: its type is that of the setting.
      help: for the flag.
      one_of: what it may be; empty: see ``check_range``.
      some_of: what a tuple may hold.
    """
    metadata = {"help": help, "one_of": one_of, "some_of": some_of}
    return dataclasses.field(default=default, metadata=metadata)


def check_pattern(name: str, pattern: str) -> None:
    """Raises UsageError unless a text is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{name} is {pattern!r}, not a regular expression: {error}") from None


def check_choices(section: Any) -> None:
    """Raises UsageError if a field of a section is of another type, or none of its choices.

    To be called first: what follows may count on the types.
    """
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        kind = type(field.default)
        require(_is_a(kind, value), field.name, value, KINDS[kind])
        require(_in_reach(value), field.name, value, f"a number of {LARGEST} at most")
        one_of, some_of = field.metadata["one_of"], field.metadata["some_of"]
        if one_of:
            require_one_of(one_of, field.name, value)
        if kind is tuple and not some_of:
            require(all(_is_a(float, one) for one in value), field.name, value, "numbers")
        if some_of:
            allowed = "one or more of " + ", ".join(some_of) + ", each once"
            valid = all(one in tuple(some_of) for one in value)
            told = ",".join(map(str, value))
            require(valid and len(set(value)) == len(value) > 0, field.name, told, allowed)


def _is_a(kind: type, value: Any) -> bool:
    """Exactly of that type, so that True is no number; an int will do for a float."""
    return type(value) is kind or (kind is float and type(value) is int)


def _in_reach(value: Any) -> bool:
    return type(value) is not int or abs(value) <= LARGEST


def check_range(section: Any, **limits: tuple[Callable[[Any], bool], str]) -> None:
    """Raises UsageError where a field is infinite or not ``valid``, which ``allowed`` tells."""
    for name, (valid, allowed) in limits.items():
        value = getattr(section, name)
        finite = not isinstance(value, float) or math.isfinite(value)
        require(finite and valid(value), name, value, allowed)
