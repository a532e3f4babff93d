"""Trees of every kind are loaded as they were saved."""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from bbo.compaction import export
from bbo.types import UsageError

W = np.arange(6, dtype=np.float32).reshape(2, 3)


class Pair(NamedTuple):
    a: Any
    b: Any


class Network(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.value = nnx.Param(jnp.ones(2))
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs)])


STATE = nnx.state(Network(nnx.Rngs(0)))
DTYPES = "bfloat16 float16 float8_e4m3fn int8 uint8 int4 uint4 bool complex64 uint32".split()
TREES = {
    "attention": {"attn": {"query": W, "key": 2 * W, "value": 3 * W}},
    "value": {"a": {"value": W}},
    "numbers": {"layers": {i: i * W for i in range(12)}},
    "bools": {False: W, True: 2 * W},
    "slashes": {"a/b": W, "a": 2 * W, "/": 3 * W, "": 4 * W},
    "names": {"a.npy": W, "a": 2 * W, "..": 3 * W, "ä b": 4 * W},
    "list": {"layers": [W, 2 * W]},
    "tuple": (W, {"a": 2 * W}),
    "empty": {"a": None, "b": {}, "c": [], "d": (), "e": W},
    "nothing": {},
    "none": None,
    "array": W,
    "frozen": freeze({"a": {"b": W}, "c": {}}),
    "within": {"params": freeze({"a": {"b": W}})},
    "ordered": collections.OrderedDict([("b", W), ("a", 2 * W)]),
    "state": STATE,
    "dict of a state": nnx.to_pure_dict(STATE),
    "states": [nnx.State({"a": nnx.Param(W)}), nnx.State({})],
    "dtypes": {name: jnp.zeros((2, 0, 3), name) for name in DTYPES},
    "numbers of dtypes": {name: jnp.ones((), name) for name in DTYPES},
    "numpy": {
        "big": np.arange(3, dtype=">f4"),
        "fortran": np.asfortranarray(W),
        "int": np.arange(3),
    },
    "python": {"int": 3, "float": 2.5, "bool": True, "complex": 1j},
    "keys": {"one": jax.random.key(3), "two": jax.random.split(jax.random.key(1), 2)},
    "other keys": {"rbg": jax.random.key(1, impl="rbg"), "old": jax.random.PRNGKey(0)},
}
KNOWN_BY_THE_CALLER = {
    "Pair": {"x": Pair(W, 2 * W)},
    "defaultdict": collections.defaultdict(list, {"a": W}),
    "dict": {("a", 1): W, ("b", 2): 2 * W},
}


def bits(tree):
    """Dtypes, shapes and bytes."""

    def of(leaf):
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return str(leaf.dtype if is_key else array.dtype), array.shape, array.tobytes()

    return list(map(of, jax.tree.leaves(tree)))


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_what_is_loaded_is_what_was_saved(tree, tmp_path):
    export.save_network(tmp_path, spec={}, variables=tree)
    for options in ({}, {"like": tree} if jax.tree.leaves(tree) else {}):
        _, loaded = export.load_network(tmp_path, **options)
        assert jax.tree.structure(loaded) == jax.tree.structure(tree)
        assert bits(loaded) == bits(tree)


@pytest.mark.parametrize("kind", KNOWN_BY_THE_CALLER)
def test_other_classes_are_the_callers(kind, tmp_path):
    tree = KNOWN_BY_THE_CALLER[kind]
    export.save_network(tmp_path, spec={}, variables=tree)
    told = f"from a tree with a {kind}, of which .*; give load_network the argument like, a tree of"
    with pytest.raises(UsageError, match=told):
        export.load_network(tmp_path)
    _, loaded = export.load_network(tmp_path, like=jax.tree.map(jnp.zeros_like, tree))
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert bits(loaded) == bits(tree)


def test_modules_are_filled_with_arrays_of_any_size(tmp_path):
    eqx = pytest.importorskip("equinox")
    small, large = (eqx.nn.MLP(2, 2, width, 1, key=jax.random.key(width)) for width in (3, 4))
    told = (
        "^activation is a custom_jvp, and only arrays and numbers can be saved; leave it out, as "
    )
    with pytest.raises(UsageError, match=told):
        export.save_network(tmp_path, spec={}, variables=small)
    export.save_network(tmp_path, spec={}, variables=eqx.filter(small, eqx.is_array))
    _, loaded = export.load_network(tmp_path, like=large)  # its functions stay
    x = jnp.ones(2)
    np.testing.assert_array_equal(loaded(x), small(x))


@pytest.mark.parametrize(
    ("like", "told"),
    [
        ({"a": W}, "^like has no array called b; give a tree as it was saved$"),
        ({"a": W, "b": W, "c": W}, "^the network has no array called c; give a tree as it was sav"),
        ({"a": W, "b": len}, "^like has no array called b"),
    ],
)
def test_other_names_cannot_be_filled(like, told, tmp_path):
    export.save_network(tmp_path, spec={}, variables={"a": W, "b": W})
    with pytest.raises(UsageError, match=told):
        export.load_network(tmp_path, like=like)
