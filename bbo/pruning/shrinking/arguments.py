"""What ``shrink`` is given, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from bbo import trees
from bbo.types import PyTree, UsageError, require

CALL = (
    "call shrink(function, variables, *inputs, keep=0.5), with a function of variables and inputs"
)


def check_network(function: Any, variables: PyTree, inputs: Sequence[PyTree]) -> None:
    """Refuses what cannot be shrunk.

    Raises:
      UsageError: the function is none, the variables are not concrete arrays, or there is but one
        array where variables and inputs are expected.
    """
    if not callable(function):
        raise UsageError(f"the function is {trees.described(function)}; {CALL}")
    leaves = trees.flatten(variables)
    if not inputs and set(leaves) == {""}:
        raise UsageError(f"the variables are {trees.described(variables)}, without inputs; {CALL}")
    for name, leaf in leaves.items():
        what = "only a shape" if isinstance(leaf, jax.ShapeDtypeStruct) else "just being traced"
        if isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
            raise UsageError(
                f"{name} is {what}, and which channels matter least is told from values; give "
                "concrete arrays, and call shrink outside of jax.jit"
            )
        trees.require_array(name, leaf, "shrunk")


def check_share(name: str, share: Any) -> None:
    """Refuses what is no share of what is to stay.

    Raises:
      UsageError: it is no number in (0, 1], and of ``keep`` no dict of such.
    """
    allowed = "a number in (0, 1]"
    if name == "keep":
        allowed += ", or a dict of such by regular expressions"
    several = isinstance(share, Mapping) and name == "keep"
    numbers: list[Any] = list(share.values()) if several else [share]
    for number in numbers:
        is_number = trees.is_numeric(number) and jnp.ndim(number) == 0
        require(is_number and 0 < number <= 1, name, share, allowed)


def check_mended(mended: PyTree, masked: PyTree) -> None:
    """Refuses what a recovery gives if it is not the whole network.

    Raises:
      UsageError: it has not the names and shapes of the variables.
    """
    shapes = [
        {name: jnp.shape(leaf) for name, leaf in trees.flatten(tree).items()}
        for tree in (mended, masked)
    ]
    if shapes[0] != shapes[1]:
        raise UsageError(
            "recover gives something else than the variables, with the shapes that they had; it is "
            "called as recover(variables, pruned), and has to return what pruned becomes"
        )
