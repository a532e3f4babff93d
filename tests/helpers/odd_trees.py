"""Parameter trees of odd names, shapes, dtypes and values, for Hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from bbo import trees

NAMES = st.sampled_from(
    ["kernel", "bias", "scale", "w", "conv", "conv_norm", "value", "a/kernel", "", "é", "(", "0"]
) | st.text(max_size=3)
SHAPES = ((), (1,), (3,), (0,), (3, 4), (1, 1, 2, 3), (3, 3, 2, 4), (3, 0, 2, 4), (2, 3, 3, 2, 4))
DTYPES = ("float32", "float32", "bfloat16", "float16", "int32", "uint8", "bool", "complex64")


def _some(special):
    return lambda values: np.where(np.abs(values) > 1, special, values)


KINDS = {
    "plain": lambda values: values,
    "ties": np.round,
    "zeros": lambda values: 0 * values,
    "minus zeros": lambda values: -0.0 * np.abs(values),
    "some zeros": _some(0.0),
    "large": lambda values: values * 1e12,
    "small": lambda values: values * 1e-30,
    "denormal": lambda values: values * 1e-42,
}
"""Finite numbers, from normal ones."""
BROKEN = KINDS | {
    "some NaN": _some(np.nan),
    "some inf": _some(-np.inf),
    "NaN": lambda values: np.nan * values,
}
"""And others."""


@st.composite
def arrays(draw, shape, *, kinds=tuple(KINDS), dtype="float32"):
    """A numpy array of this shape: normal numbers, changed in one of the ways above."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(kinds))
    with np.errstate(all="ignore"):
        return BROKEN[kind](generator.standard_normal(shape)).astype(jnp.dtype(dtype))


ODD_ARRAYS = st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES)).flatmap(
    lambda chosen: arrays(chosen[0], kinds=tuple(BROKEN), dtype=chosen[1])
)
OTHERS = st.sampled_from([1.5, 3, True, None, "text", jax.nn.relu])
"""Leaves that are no arrays."""
ODD_TREES = st.recursive(
    ODD_ARRAYS | ODD_ARRAYS | ODD_ARRAYS | OTHERS,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=4),
        st.dictionaries(NAMES, inner, max_size=4),
        st.dictionaries(st.integers(0, 3) | NAMES, inner, max_size=2),
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=6,
)
KERNELS = st.tuples(
    st.sampled_from([(3, 3, 2, 4), (1, 1, 3, 1), (1, 3, 3, 2, 4)]),
    st.sampled_from(["float32", "bfloat16", "float16"]),
).flatmap(lambda chosen: arrays(chosen[0], kinds=tuple(BROKEN), dtype=chosen[1]))
NETWORKS = st.fixed_dictionaries({"conv": st.fixed_dictionaries({"kernel": KERNELS})}).flatmap(
    lambda layers: ODD_TREES.map(lambda rest: layers | {"rest": rest})
)
TREES = NETWORKS | NETWORKS | ODD_TREES
"""With a kernel somewhere, two times of three."""


def floating(name, leaf):
    """A selector of all that noise can fall on and of which units can be ranked: any shape."""
    del name
    return trees.is_floating(leaf) and leaf.size > 0


SELECTORS = st.sampled_from([None, None, "^conv/", "kernel$", floating, floating, "", "("])
