"""How primitives of JAX carry positions along axes: from which of its operands a result has them.

A rule for each primitive. One that is not here is not guessed at: all axes that meet in it are
fixed, with its name as the reason.
"""

from collections.abc import Callable

import numpy as np

from bbo.compaction.tracing.flow import arithmetic, lookups, shapes
from bbo.compaction.tracing.flow.draws import DRAWN, DRAWS
from bbo.compaction.tracing.flow.positions import Call, Flow, Place, length, unknown

ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf "
    "erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le le_to "
    "lgamma log log1p logistic lt lt_to max min mul name ne neg nextafter not or polygamma "
    "population_count pow pvary real reduce_precision rem round rsqrt select_n "
    "shift_left shift_right_arithmetic shift_right_logical sharding_constraint sign sin sinh sqrt "
    "square stop_gradient sub tan tanh xor zeta"
).split()
RULES: dict[str, Callable[[Call], Flow]] = {
    **dict.fromkeys(ELEMENTWISE, arithmetic.elementwise),
    **dict.fromkeys(("optimization_barrier", "device_put"), arithmetic.each_by_itself),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_min", "reduce_window_sum"), arithmetic.window
    ),
    **{
        f"cum{name}": arithmetic.along("axis", f"cum{name} runs along it")
        for name in ("sum", "prod", "max", "min", "logsumexp")
    },
    **{
        f"reduce_{name}": arithmetic.reduction(f"reduce_{name} is taken over it")
        for name in ("max", "min", "prod", "and", "or", "xor")
    },
    **{name: arithmetic.reduction(f"{name} is taken over it") for name in ("argmax", "argmin")},
    "reduce_sum": arithmetic.reduction(),
    **DRAWS,
    "psum": arithmetic.over_devices,
    "sort": arithmetic.along("dimension", "it is sorted"),
    "top_k": arithmetic.along("axis", "the largest along it are taken"),
    "bitcast_convert_type": arithmetic.bitcast,
    "broadcast_in_dim": shapes.broadcast_in_dim,
    "transpose": shapes.transpose,
    "squeeze": shapes.squeeze,
    "reshape": shapes.reshape,
    "dot_general": arithmetic.dot_general,
    "conv_general_dilated": arithmetic.convolution,
    "concatenate": shapes.concatenate,
    "stack": shapes.stack,
    "unstack": shapes.unstack,
    "tile": shapes.tile,
    "split": shapes.split,
    "slice": shapes.slicing,
    "pad": shapes.padding,
    "rev": shapes.reverse,
    "iota": shapes.iota,
    "gather": lookups.gather,
    "dynamic_slice": lookups.dynamic_slice,
    "dynamic_update_slice": lookups.dynamic_update_slice,
    **dict.fromkeys(lookups.SCATTERS, lookups.scatter),
    "fft": arithmetic.fourier,
}


RESIZABLE = frozenset(("broadcast_in_dim", "iota", "pad", "reshape", "tile", *DRAWN))
"""Primitives that can be told to make fewer new positions (``reshape`` fixes those it must)."""


def flow_of(name: str, call: Call) -> Flow:
    """What the primitive called ``name`` does."""
    found = RULES.get(name, unknown(name))(call)
    if name in RESIZABLE:
        return found
    fixed = [(place, f"its positions are made by {name}") for place in _new(call, found)]
    return found._replace(fixed_results=[*found.fixed_results, *fixed])


def _new(call: Call, found: Flow) -> list[Place]:
    """Axes of results with positions that come from no operand."""
    is_new = {
        Place(result, axis): np.ones(length(size), bool)
        for result, shape in enumerate(call.results)
        for axis, size in enumerate(shape)
    }
    for place, _, index in found.ties:
        is_new[place] &= (index < 0).all(axis=1)
    return [place for place, new in is_new.items() if new.any()]
