"""Pytrees whose leaves have names such as ``block1/conv/kernel``."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbo.types import Array, PyTree, UsageError

Selector = str | Callable[[str, Any], bool]
"""A regular expression searched for in a leaf's name, or a function of its name and value."""


def leaf_name(path: tuple) -> str:
    """The name of a leaf from its key path: keys, indices and attributes joined by ``/``.

    A last part ``value`` below others is left out: there Flax NNX keeps the array of a variable.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def names(tree: PyTree) -> list[str]:
    """Names of all leaves, in the order of ``jax.tree.leaves``.

    >>> names({"conv": {"kernel": 1, "bias": 2}})
    ['conv/bias', 'conv/kernel']
    """
    return [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by name.

    Raises:
      UsageError: two leaves have one name, as in ``{"a/b": 1, "a": {"b": 2}}``.

    >>> flatten({"conv": {"kernel": 1}})
    {'conv/kernel': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {leaf_name(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        found = [leaf_name(path) for path, _ in leaves]
        twice = sorted({name for name in found if found.count(name) > 1})
        raise UsageError(f"several leaves of the tree are called {', '.join(twice)}; rename them")
    return named


def map_named(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """``jax.tree.map`` with the leaf's name as first argument of ``function``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest
    )


def select(tree: PyTree, selector: Selector) -> PyTree:
    """A tree of bools: which leaves the selector matches.

    Args:
      tree: any pytree.
      selector: a regular expression, searched for in the name, or ``(name, leaf) -> bool``.

    Raises:
      UsageError: the expression is not valid, or nothing matches; the message lists the names.

    >>> select({"conv": {"kernel": 1, "bias": 2}}, "kernel$")
    {'conv': {'bias': False, 'kernel': True}}
    """
    matches = matcher(selector)
    selected = map_named(lambda name, leaf: bool(matches(name, leaf)), tree)
    if not any(jax.tree.leaves(selected)):
        found = names(tree)
        listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        what = f"is matched by {selector!r}" if isinstance(selector, str) else _described(selector)
        count = "is 1 parameter" if len(found) == 1 else f"are {len(found)} parameters"
        raise UsageError(f"no parameter {what}; there {count}: {listed}")
    return selected


def _described(selector: Callable) -> str:
    """For ``spatial_kernels``: "is among the spatial kernels"."""
    return f"is among the {getattr(selector, '__name__', 'selected').replace('_', ' ')}"


def matcher(selector: Selector) -> Callable[[str, Any], bool]:
    """A selector as a function of name and leaf.

    Raises:
      UsageError: the expression is not valid.
    """
    if callable(selector):
        return selector
    pattern = compile_pattern(selector)
    return lambda name, _: pattern.search(name) is not None


def compile_pattern(pattern: str) -> re.Pattern:
    """``re.compile`` whose error is a sentence.

    Raises:
      UsageError: the expression is not valid.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None


def wide(x: Array) -> Array:
    """In float32 at least: epsilon and the moments of xi need its range and precision."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
