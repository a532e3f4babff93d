"""Batch Bridgeout and its relatives: train networks whose filters can be thrown away.

The library has rooms; import the one you need, for instance ``from bbo import noise, pruning``.
Importing ``bbo`` itself costs nothing. What is used most is here as well:
``bbo.shrink``, and for loops with optax ``bbo.optax``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbo.pruning.shrinking.shrink import shrink as shrink
    from bbo.training import transformations as optax  # noqa: F401

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``bbo.shrink`` and ``bbo.optax``, which load jax when they are first asked for."""
    if name == "shrink":
        from bbo.pruning.shrinking.shrink import shrink

        return shrink
    if name == "optax":
        from bbo.training import transformations

        return transformations
    raise AttributeError(
        f"module 'bbo' has no attribute {name!r}; rooms are imported: from bbo import compaction"
    )


def __dir__() -> list[str]:
    """What is loaded later is offered too."""
    return sorted({*globals(), "optax", "shrink"})
