"""Primitives as functions of libraries, which converters to other formats know better."""

import sys
from typing import Any

import jax.numpy as jnp
from jax import lax

from bbo.types import Array

REWRITTEN = frozenset(("reduce_window_max",))
"""The primitives that are."""


def max_pool(x: Array, params: dict[str, Any]) -> Array | None:
    """``reduce_window_max`` with the parameters of the primitive, of images [n, ..., channels].

    None if it is something else, or if Flax is not loaded: then nobody has written it so.
    """
    linen = sys.modules.get("flax.linen")
    window, strides = params["window_dimensions"], params["window_strides"]
    padding = [tuple(pair) for pair in params["padding"]]
    spread = (*params["base_dilation"], *params["window_dilation"])
    ends = {(window[i], strides[i], padding[i]) for i in (0, -1)}
    if linen is None or x.ndim < 3 or ends != {(1, 1, (0, 0))} or set(spread) != {1}:
        return None
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    inner = tuple(window[1:-1]), tuple(strides[1:-1])
    pads: Any = padding[1:-1]
    named = [name for name in ("VALID", "SAME") if _pads(x, *inner, name) == pads]
    return linen.max_pool(
        x,
        window_shape=inner[0],
        strides=inner[1],
        padding=named[0] if named else pads,
    )


def _pads(x: Array, window: tuple[int, ...], strides: tuple[int, ...], name: str) -> list[Any]:
    """What a padding by name adds to the ends."""
    return [tuple(pair) for pair in lax.padtype_to_pads(x.shape[1:-1], window, strides, name)]
