"""Whether a network is still one of numbers, and what to say when it is not."""

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.types import Array, PyTree, RunError

SHOWN = 3
"""How many arrays a message names."""


def all_finite(tree: PyTree) -> Array:
    """Whether no number in a tree is NaN or infinite: a bool [].

    A program of its own, not a part of another one, which would then be compiled to other bits. The
    loss tells less: on CPU, XLA may fuse ``maximum(NaN, 0)`` to 0.

    >>> bool(all_finite({"w": jnp.ones(3)})), bool(all_finite({"w": jnp.full(3, jnp.inf)}))
    (True, False)
    """
    return _all_finite(jax.tree.leaves(tree))


@jax.jit
def _all_finite(leaves: list[Array]) -> Array:
    """Of arrays without their names: one program for all trees of the same arrays."""
    return jnp.all(jnp.asarray([True, *(jnp.all(jnp.isfinite(leaf)) for leaf in leaves)]))


def not_finite(tree: PyTree) -> str:
    """Names the first arrays that hold NaN or infinity, and the largest norms; empty if none does.

    >>> not_finite({"a": jnp.full(3, 2.0), "b": jnp.full(4, jnp.nan)})
    'b is not finite (4 of 4 numbers); largest norm of the others: a 3.5'
    """
    # Read as float64, whose squares do not overflow.
    leaves = {name: np.asarray(x).astype(np.float64) for name, x in trees.flatten(tree).items()}
    found = sorted(leaves, key=lambda name: not name.startswith("params"))  # what is trained first
    wrong = {name: leaves[name] for name in found if not np.isfinite(leaves[name]).all()}
    if not wrong:
        return ""
    norms = {name: np.linalg.norm(x) for name, x in leaves.items() if name not in wrong}
    largest = sorted(norms, key=lambda name: -norms[name])[:SHOWN]
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    bad = sum(np.sum(~np.isfinite(x)) for x in wrong.values())
    total = sum(x.size for x in wrong.values())
    verb = "is" if len(wrong) == 1 else "are"
    noun = "norm" if len(largest) == 1 else "norms"
    told = f"{', '.join([*wrong][:SHOWN])}{more} {verb} not finite ({bad} of {total} numbers)"
    if not largest:
        return told
    shown = ", ".join(f"{name} {norms[name]:.2g}" for name in largest)
    return f"{told}; largest {noun} of the others: {shown}"


def require_finite(tree: PyTree) -> PyTree:
    """The tree itself.

    Raises:
      RunError: some of its numbers are not finite; names their arrays.
    """
    if not all_finite(tree):
        raise RunError(not_finite(tree))
    return tree
