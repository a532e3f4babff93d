"""The structure of a tree of arrays as JSON, with the arrays by name.

An array is its name, None is null, and every other node is an object with the kind as its only
key: ``{"list": [...]}``, ``{"dict": [[key, node], ...]}``, ``{"Param": [node, metadata]}``. Of a
class that is not known here, ``{"class": "Linear"}`` is all that is told.
"""

import collections
from collections.abc import Mapping
from typing import Any

from flax import nnx
from flax.core import FrozenDict

from bbo import trees
from bbo.types import Array, PyTree, UsageError

SEQUENCES = {"list": list, "tuple": tuple}
MAPPINGS = {
    "dict": dict,
    "FrozenDict": FrozenDict,
    "OrderedDict": collections.OrderedDict,
    "State": nnx.State,
}
PLAIN = (str, int, float, bool, type(None))
"""What JSON keeps."""


def described(tree: PyTree) -> Any:
    """The structure of a tree, with names in place of its leaves."""
    return _node(trees.map_named(lambda name, _: name, tree))


def _node(tree: PyTree) -> Any:
    kind = type(tree)
    if tree is None or kind is str:
        return tree
    if kind in SEQUENCES.values():
        return {kind.__name__: list(map(_node, tree))}
    if kind in MAPPINGS.values():
        # NNX gives the inner dicts of a state as states.
        items = list((tree.raw_mapping if kind is nnx.State else tree).items())
        if all(type(key) in (str, int, bool) for key, _ in items):
            return {kind.__name__: [[key, _node(value)] for key, value in items]}
    if isinstance(tree, nnx.Variable) and _variable(kind.__name__) is kind:
        metadata = tree.get_metadata()
        if all(type(value) in PLAIN for value in metadata.values()):
            return {kind.__name__: [_node(tree.get_value()), metadata]}
    return {"class": kind.__name__}


def _variable(name: str) -> Any:
    """NNX's kind of variable of this name, or None."""
    kind = getattr(nnx, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, nnx.Variable) else None


def built(node: Any, arrays: Mapping[str, Array]) -> PyTree:
    """The tree of a structure.

    Raises:
      UsageError: a class in it is not known here.
      KeyError, TypeError, ValueError: this is no structure of these arrays.
    """
    if node is None or isinstance(node, str):
        return None if node is None else arrays[node]
    ((kind, held),) = node.items()
    if kind in SEQUENCES:
        return SEQUENCES[kind](built(child, arrays) for child in held)
    if kind in MAPPINGS:
        return MAPPINGS[kind]({key: built(child, arrays) for key, child in held})
    if kind == "class":
        raise UsageError(
            f"the network was saved from a tree with a {held}, of which the arrays alone are "
            "kept; give load_network the argument like, a tree of this structure"
        )
    child, metadata = held
    variable = _variable(kind)
    if variable is None:
        raise ValueError(kind)
    return variable(built(child, arrays), **metadata)


def filled(like: PyTree, arrays: Mapping[str, Array]) -> PyTree:
    """A tree with arrays in place of those of the same names.

    What is neither number nor array, such as a function, stays.

    Raises:
      UsageError: the names differ.
    """
    held = {name for name, leaf in trees.flatten(like).items() if trees.is_array(leaf)}
    for names, where in ((arrays.keys() - held, "like"), (held - arrays.keys(), "the network")):
        if names:
            some = ", ".join(sorted(names)[:8])
            raise UsageError(f"{where} has no array called {some}; give a tree as it was saved")
    return trees.map_named(lambda name, leaf: arrays.get(name, leaf), like)
