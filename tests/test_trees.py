"""Names, selection and maps on every kind of pytree."""

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze, meta

from bbo import trees
from bbo.types import UsageError


class Pair(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


TREES = [
    ({"conv": {"kernel": 1, "bias": 2}}, ["conv/bias", "conv/kernel"]),
    ({"blocks": [{"kernel": 1}, {"kernel": 2}]}, ["blocks/0/kernel", "blocks/1/kernel"]),
    (({"a": 1}, 2), ["0/a", "1"]),
    ({"conv": Pair(kernel=1, bias=2)}, ["conv/kernel", "conv/bias"]),
    ([Layer(kernel=1, bias={"b": 2})], ["0/kernel", "0/bias/b"]),
    ({"kept": 1, "none": None}, ["kept"]),
    ({}, []),
    (1, [""]),
]


@pytest.mark.parametrize(("tree", "names"), TREES)
def test_names_follow_the_order_of_the_leaves(tree, names):
    assert trees.names(tree) == names
    assert list(trees.flatten(tree).items()) == list(zip(names, jax.tree.leaves(tree), strict=True))
    named = trees.map_named(lambda name, leaf: f"{name}={leaf}", tree)
    assert jax.tree.structure(named) == jax.tree.structure(tree)
    assert jax.tree.leaves(named) == [f"{n}={x}" for n, x in trees.flatten(tree).items()]


def network():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
            self.head = nnx.Linear(2, 3, rngs=rngs)

    return nnx.state(Network(nnx.Rngs(0)), nnx.Param)


def test_the_state_of_an_nnx_module_is_a_tree_like_any_other():
    state = network()
    shapes = {name: leaf.shape for name, leaf in trees.flatten(state).items()}
    assert shapes == {
        "conv/bias": (2,),
        "conv/kernel": (3, 3, 1, 2),
        "head/bias": (3,),
        "head/kernel": (2, 3),
    }
    zeroed = trees.map_named(
        lambda _, leaf, chosen: jnp.zeros_like(leaf) if chosen else leaf,
        state,
        trees.select(state, "conv/kernel"),
    )
    assert jax.tree.structure(zeroed) == jax.tree.structure(state)
    before, after = trees.flatten(state), trees.flatten(zeroed)
    for name in before:
        expected = np.zeros((3, 3, 1, 2)) if "conv/kernel" in name else before[name]
        np.testing.assert_array_equal(after[name], expected)


PARAMS = {
    "conv1": {"kernel": np.ones((3, 3, 1, 2)), "bias": np.ones(2)},
    "head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)},
}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("kernel$", ["conv1/kernel", "head/kernel"]),
        ("^conv", ["conv1/bias", "conv1/kernel"]),
        (r"conv\d+/kernel|head/bias", ["conv1/kernel", "head/bias"]),
        ("", ["conv1/bias", "conv1/kernel", "head/bias", "head/kernel"]),
        (lambda name, leaf: leaf.ndim == 4, ["conv1/kernel"]),
        (lambda name, leaf: name.startswith("head") and leaf.size == 3, ["head/bias"]),
        (lambda name, leaf: np.bool_(leaf.ndim == 1), ["conv1/bias", "head/bias"]),
    ],
)
def test_select_marks_what_a_selector_matches(selector, chosen):
    selected = trees.select(PARAMS, selector)
    assert jax.tree.structure(selected) == jax.tree.structure(PARAMS)
    assert all(type(leaf) is bool for leaf in jax.tree.leaves(selected))
    assert [name for name, leaf in trees.flatten(selected).items() if leaf] == chosen


@pytest.mark.parametrize("selector", ["Kernel", "^kernel", lambda name, leaf: False])
def test_matching_nothing_is_an_error_that_lists_the_names(selector):
    with pytest.raises(UsageError) as error:
        trees.select(PARAMS, selector)
    assert "there are 4 parameters: conv1/bias, conv1/kernel, head/bias, head/" in str(error.value)


def test_a_long_list_of_names_is_cut_at_eight():
    tree = {f"layer{i}": i for i in range(10)}
    with pytest.raises(UsageError, match="there are 10 parameters: layer0, .*, layer7, ...$"):
        trees.select(tree, "conv")
    with pytest.raises(UsageError, match="there are 0 parameters"):
        trees.select({}, "conv")


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<n>"])
def test_an_invalid_expression_is_a_usage_error(pattern):
    for function in (lambda: trees.select(PARAMS, pattern), lambda: trees.matcher(pattern)):
        with pytest.raises(UsageError, match="is not a regular expression: "):
            function()


def test_map_named_takes_several_trees():
    tree = {"a": [1, 2], "b": 3}
    other = {"a": [10, 20], "b": 30}
    third = {"a": [100, 200], "b": 300}
    result = trees.map_named(lambda name, *leaves: (name, sum(leaves)), tree, other, third)
    assert result == {"a": [("a/0", 111), ("a/1", 222)], "b": ("b", 333)}
    # As in jax.tree.map, a later tree may hold a whole subtree where the first has a leaf.
    assert trees.map_named(lambda name, leaf, rest: rest, {"a": 1}, {"a": [2, 3]}) == {"a": [2, 3]}
    with pytest.raises(ValueError):
        trees.map_named(lambda name, *leaves: None, tree, {"a": [1], "b": 2})


def test_names_are_the_same_while_jax_traces():
    seen = []

    @jax.jit
    def double(tree):
        return trees.map_named(lambda name, leaf: seen.append(name) or 2 * leaf, tree)

    doubled = double({"conv": {"kernel": jnp.ones(2)}})
    assert seen == ["conv/kernel"]
    np.testing.assert_array_equal(doubled["conv"]["kernel"], [2, 2])


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (
            {"a/b": 1, "a": {"b": 2}},
            r"tree\['a'\]\['b'\] and tree\['a/b'\] are both called a/b; re",
        ),
        ({"a": [1], "a/0": 2}, r"tree\['a'\]\[0\] and tree\['a/0'\] are both called a/0; rename"),
        (
            collections.OrderedDict({0: 1, "0": 2}),
            r"tree\[0\] and tree\['0'\] are both called 0; r",
        ),
        ({0: 1, "0": 2}, "the tree cannot be read: .* keys; let a dict's keys be strings"),
    ],
)
def test_leaves_of_one_name_are_refused_wherever_there_are_names(tree, told):
    for function in (
        trees.names,
        trees.flatten,
        lambda tree: trees.map_named(lambda name, leaf: leaf, tree),
        lambda tree: trees.select(tree, "0"),
    ):
        with pytest.raises(UsageError, match=told):
            function(tree)


class Attention(NamedTuple):
    query: Any
    key: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Scale:
    value: Any


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"attn": {"key": 1, "query": 2, "value": 3}}, ["attn/key", "attn/query", "attn/value"]),
        ({"a": {"value": 1}}, ["a/value"]),
        ({"attn": Attention(1, 2, 3)}, ["attn/query", "attn/key", "attn/value"]),
        ([Scale(1)], ["0/value"]),
        (nnx.State({"value": nnx.Param(1), "a": {"value": nnx.Param(2)}}), ["a/value", "value"]),
        ({"a": nnx.Param({"value": 1})}, ["a/value"]),
        ({"kernel": meta.Partitioned(1, names=("a",))}, ["kernel"]),
        (nnx.Param(1), [""]),
        (freeze({"a": {"value": 1}}), ["a/value"]),
    ],
)
def test_a_parameter_may_be_called_value(tree, names):
    assert trees.names(tree) == names
    assert trees.map_named(lambda name, _: name, tree) == jax.tree.unflatten(
        jax.tree.structure(tree), names
    )
