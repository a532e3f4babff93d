"""Noise, scores and masks on trees that hold more than kernels."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from bbo import noise, pruning, trees
from bbo.compaction import find_channels
from bbo.types import UsageError

KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 4)), jnp.float32)
CONV = {"conv": {"kernel": KERNEL}}


class Layer(NamedTuple):
    kernel: Any
    bias: Any


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.conv.kernel.set_value(KERNEL)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.count = nnx.Variable(jnp.arange(3))


TREES = {
    "integers": CONV | {"count": jnp.arange(3), "steps": 3},
    "bools": CONV | {"mask": jnp.ones((3, 3, 2, 4), bool), "on": True},
    "keys": CONV | {"key": jax.random.key(0), "keys": jax.random.split(jax.random.key(1), 2)},
    "complex": CONV | {"phase": jnp.ones(2, jnp.complex64)},
    "empty": CONV | {"empty": {"kernel": jnp.zeros((3, 3, 0, 4))}, "none": None, "list": []},
    "numpy": {"conv": {"kernel": np.asarray(KERNEL)}, "value": np.float32(2)},
    "frozen": freeze(CONV),
    "tuples": ({"conv": Layer(KERNEL, None)}, [jnp.ones(4)]),
    "state": nnx.state(Network(nnx.Rngs(0))),
}


def kernel_of(tree):
    """The kernel, its name, and all other leaves."""
    leaves = trees.flatten(tree)
    (name,) = (name for name in leaves if name.endswith("conv/kernel"))
    return leaves.pop(name), name, leaves


def data(leaf):
    return jax.random.key_data(leaf) if trees.is_key(leaf) else leaf


every_tree = pytest.mark.parametrize("tree", TREES.values(), ids=TREES)


@every_tree
@pytest.mark.parametrize("pause", [None, False, True])
def test_noise_falls_on_the_kernel_alone(tree, pause):
    regulariser = noise.batch_bridgeout(rate=0.5, q=1.0)
    if pause is not None:
        regulariser = noise.paused(regulariser, jnp.asarray(pause))
    noisy = regulariser.weights(jax.random.key(1), tree)
    assert jax.tree.structure(noisy) == jax.tree.structure(tree)
    (found, _, others), (kernel, _, clean) = kernel_of(noisy), kernel_of(tree)
    assert np.array_equal(found, kernel) is bool(pause)
    for name, leaf in others.items():
        np.testing.assert_array_equal(data(leaf), data(clean[name]))


@every_tree
@pytest.mark.parametrize("compiled", [False, True])
def test_the_weakest_filters_of_the_kernel_are_zeroed_alone(tree, compiled):
    kernel, name, clean = kernel_of(tree)
    scores = pruning.scores(tree, criterion="l1", granularity="filter")
    assert list(scores) == [name]
    np.testing.assert_allclose(scores[name], np.abs(kernel).sum((0, 1, 2)), rtol=1e-6)
    prune = functools.partial(pruning.prune, sparsity=0.5, criterion="l1")
    pruned = (jax.jit(prune) if compiled else prune)(tree)
    assert jax.tree.structure(pruned) == jax.tree.structure(tree)
    found, _, others = kernel_of(pruned)
    weakest = np.argsort(scores[name])[:2]
    np.testing.assert_array_equal(found, np.asarray(kernel).copy() * ~np.isin(range(4), weakest))
    for other, leaf in others.items():
        expected = clean[other]
        np.testing.assert_array_equal(data(leaf), data(expected))


@pytest.mark.parametrize("leaf", [jax.nn.relu, "text", object()])
def test_what_is_no_array_is_left_alone_by_noise_and_named_by_pruning(leaf):
    params = CONV | {"act": leaf}
    for regulariser in (
        noise.dropconnect(rate=0.5),
        noise.paused(noise.dropconnect(rate=0.5), jnp.asarray(False)),
    ):
        noisy = regulariser.weights(jax.random.key(0), params)
        assert noisy["act"] is leaf
        assert not np.array_equal(noisy["conv"]["kernel"], KERNEL)
    scores = pruning.scores(params, criterion="l2", granularity="filter")
    assert list(scores) == ["conv/kernel"]
    told = f"^act is a {type(leaf).__name__}, and only arrays and numbers can be "
    with pytest.raises(UsageError, match=f"{told}pruned; leave it out"):
        pruning.prune(params, 0.5)
    with pytest.raises(UsageError, match=f"{told}masked; leave it out"):
        pruning.apply_masks(params, jax.tree.map(lambda _: True, params))


def test_modules_are_trees(tmp_path):
    eqx = pytest.importorskip("equinox")

    class Module(eqx.Module):
        kernel: jax.Array
        activation: Any

    whole = Module(KERNEL, jax.nn.relu)
    noisy = noise.dropconnect(rate=0.5).weights(jax.random.key(0), whole)
    assert noisy.activation is jax.nn.relu and not np.array_equal(noisy.kernel, KERNEL)
    with pytest.raises(UsageError, match="^activation is a custom_jvp, and only arrays and"):
        pruning.prune(whole, 0.5)
    pruned = pruning.prune(eqx.filter(whole, eqx.is_array), 0.5)
    assert np.count_nonzero(np.abs(pruned.kernel).sum((0, 1, 2))) == 2


def test_descriptions_are_of_arrays_with_names_of_their_own():
    x, w = jnp.ones((3, 2)), jnp.ones((2, 4))

    def function(variables, x):
        return x @ variables["in"].astype(jnp.float32) @ variables["out"]

    variables = {"in": w, "out": w.T, "key": jax.random.key(0), "none": None}
    (group,) = find_channels(function, variables, x).removable
    assert set(group.members) == {("in", 1), ("out", 0)}
    with pytest.raises(
        UsageError, match="^act is a custom_jvp, and only arrays and numbers can be t"
    ):
        find_channels(function, variables | {"act": jax.nn.relu}, x)
    with pytest.raises(UsageError, match="are both called in/a; rename a key of one of them$"):
        find_channels(function, variables | {"in/a": w, "in": {"a": w}}, x)
    whole = variables | {"in": w.astype(jnp.int8)}
    with pytest.raises(UsageError, match=r"^in is int8\[2,4\], and only arrays of real floating-"):
        pruning.prune(whole, 0.5, channels=find_channels(function, whole, x))
