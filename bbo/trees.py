"""Pytrees whose leaves have names such as ``block1/conv/kernel``."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bbo.types import Array, PyTree, UsageError

Selector = str | Callable[[str, Any], bool]
"""A regular expression searched for in a leaf's name, or a function of its name and value."""


def leaves_by_path(tree: PyTree) -> list[tuple[tuple, Any]]:
    """Leaves with their key paths, without the attribute by which Flax keeps a boxed array.

    NNX's variables and Linen's partitioned arrays are such boxes. A parameter that is called
    ``value`` in a dict or a class is none, and keeps its name.
    """
    try:
        found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box)
    except ValueError as error:
        raise UsageError(
            f"the tree cannot be read: {str(error).rstrip('.')}; let a dict's keys be strings"
        ) from None
    inside = jax.tree_util.tree_leaves_with_path
    return [
        (path + within[1:] if _is_box(node) else path, leaf)
        for path, node in found
        for within, leaf in (inside(node) if _is_box(node) else [((), node)])
    ]


def _is_box(node: Any) -> bool:
    """Told by name, as importing this loads no Flax."""
    return any(
        kind.__name__ in ("Variable", "AxisMetadata") and kind.__module__.startswith("flax.")
        for kind in type(node).__mro__
    )


def names(tree: PyTree) -> list[str]:
    """Names of all leaves, in the order of ``jax.tree.leaves``.

    A name is made of keys, indices and attributes, joined by ``/``; see ``leaves_by_path``.

    Raises:
      UsageError: two leaves have one name, as in ``{"a/b": 1, "a": {"b": 2}}``.

    >>> names({"conv": {"kernel": 1, "bias": 2}})
    ['conv/bias', 'conv/kernel']
    """
    paths: dict[str, tuple] = {}
    for path, _ in leaves_by_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in paths:
            two = " and ".join(f"tree{jax.tree_util.keystr(key)}" for key in (paths[name], path))
            raise UsageError(f"{two} are both called {name}; rename a key of one of them")
        paths[name] = path
    return list(paths)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by name.

    Raises:
      UsageError: two leaves have one name.

    >>> flatten({"conv": {"kernel": 1}})
    {'conv/kernel': 1}
    """
    return dict(zip(names(tree), jax.tree.leaves(tree), strict=True))


def map_named(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """``jax.tree.map`` with the leaf's name as first argument of ``function``.

    Raises:
      UsageError: two leaves have one name.
    """
    found = names(tree)
    leaves, structure = jax.tree.flatten(tree)
    others = (structure.flatten_up_to(other) for other in rest)
    return structure.unflatten(map(function, found, leaves, *others))


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
    """For ``spatial_kernels``: "is among the spatial kernels, ..."."""
    name = getattr(selector, "__name__", "selected").replace("_", " ")
    return (
        f"is among the {name}, as told by names and shapes; select others (on='attention.*kernel$')"
        " or describe the network (channels=find_channels(...))"
    )


KERNEL = re.compile(r"(^|/)(kernel|w|k)$")
"""What kernels ``[..., in, out]`` are called by Flax, by Haiku, and by hand."""
ATTENTION = re.compile(
    r"((^|/)(query|key|value)|att(entio)?n[^/]*/out)/kernel$|att(entio)?n[^/]*/[kw]$", re.IGNORECASE
)
"""What attention calls its own, which have two axes for heads."""


def is_convolution(name: str, leaf: Any) -> bool:
    """Whether a leaf is taken for the kernel ``[..., kh, kw, in, out]`` of a convolution.

    It holds floating-point numbers, has four axes or more, and its name ends in ``kernel``, or in
    ``w`` or ``k``. Not so a position embedding ``[1, h, w, c]``, a mask, a kernel in whole numbers,
    or Equinox's ``weight``, whose filters are on the first axis. Kernels of a window with one axis
    have three, as those of attention with heads: they are not told apart, and are left out.

    Scanned layers add an axis in front. The kernels of their attention, told by its name or by
    ``query``, ``key`` and ``value``, are left out unless the window would be 1x1; of other
    products over several axes nothing tells, and they have to be left out by a selection.
    """
    if not (is_floating(leaf) and leaf.ndim >= 4 and leaf.size and KERNEL.search(name)):
        return False
    return math.prod(leaf.shape[:-2]) == 1 or not ATTENTION.search(name)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers, real ones."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_numeric(leaf: Any) -> bool:
    """Whether a leaf is a number, or an array of numbers or bools."""
    if isinstance(leaf, bool | int | float | complex):
        return True
    return hasattr(leaf, "dtype") and (
        jnp.issubdtype(leaf.dtype, jnp.number) or jnp.issubdtype(leaf.dtype, jnp.bool_)
    )


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of random keys, new-style."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is what jax computes with: not so functions, texts and objects."""
    return is_numeric(leaf) or is_key(leaf)


def described(leaf: Any) -> str:
    """What a leaf is, for messages.

    >>> described(jnp.zeros((2, 3))), described("relu")
    ('float32[2,3]', 'a str')
    """
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return f"a {type(leaf).__name__}"


def require_floating(name: str, leaf: Any, verb: str) -> None:
    """Raises UsageError unless a leaf that was selected has floating-point numbers to work on."""
    if not is_floating(leaf) or not leaf.size:
        raise UsageError(
            f"{name or 'the tree'} is {described(leaf)}, and only arrays of real floating-point "
            f"numbers can be {verb}; select others"
        )


def require_array(name: str, leaf: Any, verb: str) -> None:
    """Raises UsageError unless a leaf is an array or a number."""
    if not is_array(leaf):
        raise UsageError(
            f"{name or 'the tree'} is {described(leaf)}, and only arrays and numbers can be "
            f"{verb}; leave it out, as equinox.filter(tree, equinox.is_array) does"
        )


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
