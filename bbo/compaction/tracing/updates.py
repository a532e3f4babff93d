"""Results of a function that are the next values of its variables, such as running statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.types import PyTree, UsageError

Updates = Callable[[Any], PyTree]
"""Picks from the result of a function the part that has the names of its variables."""
OF_RESULT = "it is an axis of the result"
NEXT_VARIABLES = (
    "if a part of the result is the next variables, as running statistics are, say which: "
    "updates=lambda result: result[1]"
)
"""What to do where that is why a channel stays."""


def next_variables(updates: Updates | None, result: PyTree, variables: PyTree) -> dict[int, int]:
    """Which results are the next value of which variable.

    Args:
      updates: see there; None: no result is.
      result: shapes and dtypes of what the function gives; each leaf an object of its own.
      variables: of the function.

    Returns:
      The number of the variable, by the number of the result, in the order of the leaves.

    Raises:
      UsageError: ``updates`` picks nothing, what is no part of the result, or what has not the name
        and the shape of a variable.

    >>> result = ("logits", {"mean": jax.ShapeDtypeStruct((8,), "float32")})
    >>> variables = {"kernel": jnp.ones((3, 8)), "mean": jnp.ones(8)}
    >>> next_variables(lambda result: result[1], result, variables)
    {1: 1}
    """
    if updates is None:
        return {}
    numbers = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(result))}
    leaves = trees.flatten(variables)
    order = {name: number for number, name in enumerate(leaves)}
    picked = trees.flatten(updates(result))
    if not picked:
        raise UsageError(
            "updates picks nothing; let it give a part of the result that has the names of the "
            "variables, as in updates=lambda result: result[1], or leave it out"
        )
    for name, leaf in picked.items():
        if id(leaf) not in numbers:
            raise UsageError(
                f"updates gives {name!r}, which is no array of the result: it picks, and does not "
                "compute"
            )
        if name not in leaves:
            listed = ", ".join(list(leaves)[:8]) + (", ..." if len(leaves) > 8 else "")
            raise UsageError(
                f"updates gives {name!r}, and no variable is called so; there are {listed}; give "
                'it the names of the variables, as in {"batch_stats": result[1]}'
            )
        if leaf.shape != jnp.shape(leaves[name]):
            raise UsageError(
                f"updates gives {name!r} of shape {list(leaf.shape)}, but the variable has "
                f"{list(jnp.shape(leaves[name]))}"
            )
    return {numbers[id(leaf)]: order[name] for name, leaf in picked.items()}
