"""Batch Bridgeout and its relatives: train networks whose filters can be thrown away.

The library has rooms; import the one you need, for instance ``from bbo import noise, pruning``.
Importing ``bbo`` itself costs nothing. What is used most is here as well: ``bbo.shrink``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bbo.pruning.shrinking.shrink import shrink as shrink

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``bbo.shrink``, which loads jax when it is first asked for."""
    if name == "shrink":
        from bbo.pruning.shrinking.shrink import shrink

        return shrink
    raise AttributeError(f"module 'bbo' has no attribute {name!r}")
