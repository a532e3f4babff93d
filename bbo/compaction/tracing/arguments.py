"""Arguments of a function: arrays are traced, all else stays as it is."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo.types import PyTree


class Arguments(NamedTuple):
    """What a function is given, arrays apart from the rest."""

    arrays: list[Any]
    static: tuple[Any, ...]
    """Numbers, bools, strings and whatever else is no array."""
    is_array: tuple[bool, ...]
    """Of each leaf."""
    tree: Any


def split(given: PyTree) -> Arguments:
    """Takes arguments apart; arrays are what has a shape and a dtype.

    >>> split(("sum", [jax.ShapeDtypeStruct((2,), "float32"), 3], True)).static
    ('sum', 3, True)
    """
    leaves, tree = jax.tree.flatten(given)
    is_array = tuple(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
    apart: tuple[list[Any], list[Any]] = ([], [])
    for leaf, one in zip(leaves, is_array, strict=True):
        apart[0 if one else 1].append(leaf)
    return Arguments(apart[0], tuple(apart[1]), is_array, tree)


def join(arguments: Arguments, arrays: Sequence[Any]) -> PyTree:
    """Puts them together again, with other arrays."""
    arrays_left, static_left = iter(arrays), iter(arguments.static)
    leaves = [next(arrays_left if one else static_left) for one in arguments.is_array]
    return jax.tree.unflatten(arguments.tree, leaves)


def spec_of(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array or of a number; weak ones, as those of Python, stay weak."""
    aval = value if hasattr(value, "weak_type") else jax.typeof(value)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def key_of(variables: PyTree, given: Arguments) -> Hashable | None:
    """The same for all arguments for which a function is the same program; None if not known."""
    specs = jax.tree.map(spec_of, (variables, given.arrays))
    settings = (jnp.result_type(float), getattr(jax.config, "jax_default_matmul_precision", None))
    # With the types, since 1 == True.
    static = (given.static, tuple(map(type, given.static)), given.is_array, given.tree)
    key = (*jax.tree.leaves(specs), jax.tree.structure(specs), *static, *settings)
    try:
        hash(key)
    except TypeError:
        return None
    return key
