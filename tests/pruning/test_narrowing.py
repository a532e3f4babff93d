"""Narrow networks: the arrays that removal gives, of weights and an order that are traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import fill

from bbo import compaction, pruning
from bbo.models.create import create_model
from bbo.pruning.narrowing import narrow
from bbo.pruning.units import by_kernel, describe
from bbo.settings.sections import ModelConfig

IMAGES = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


def pruned(name, scope, share):
    """A network pruned at a share, what ``narrow`` makes of it, and what ``compact`` does."""
    model = create_model(ModelConfig(model=name, width=0.5), num_classes=10)
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    found = compaction.find_channels(model.apply, variables, IMAGES)
    channels = found.within("params") if scope == "group" else None
    pruner = pruning.prepare(variables["params"], scope=scope, channels=channels)
    counts = pruning.drop_counts(pruner.scores, share)
    groups, units = found.groups, describe(found.within("params")).units
    if channels:
        counts = {name: count for unit, count in counts.items() for name, _ in units[unit].kernels}
    masked = variables | {"params": pruner.prune(share)}

    @jax.jit
    def made(masked, ranks):
        ranks = by_kernel(units, ranks) if channels else ranks
        ranked = {f"params/{kernel}": rank for kernel, rank in ranks.items()}
        drop = {f"params/{kernel}": count for kernel, count in counts.items()}
        return narrow(masked, groups, ranked, drop, tied=scope == "group")

    small = compaction.compact(model.apply, masked, IMAGES)
    return masked, made(masked, pruner.ranks), small.variables


@pytest.mark.parametrize(("name", "scope"), [("small_cnn", "local"), ("thin_resnet18", "group")])
def test_it_is_what_removal_leaves(name, scope):
    whole, made, removed = pruned(name, scope, 0.4)
    jax.tree.map(np.testing.assert_array_equal, made, removed)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (made, whole)]
    assert sizes[0] < 0.45 * sizes[1]


def test_of_equal_ranks_those_in_front_stay():
    weights = {"in": jnp.array([[3.0, 0.0, 0.0, 2.0]]), "out": jnp.arange(4.0)[:, None]}
    groups = compaction.find_channels(
        lambda w, x: x @ w["in"] @ w["out"], weights, jnp.ones(1)
    ).groups
    small = narrow(weights, groups, {"in": jnp.array([3, 1, 1, 2])}, {"in": 1})
    assert small["in"].tolist() == [[3.0, 0.0, 2.0]]
    assert small["out"].tolist() == [[0.0], [1.0], [3.0]]


def test_what_another_kernel_puts_out_as_well_stays():
    weights = {"one": jnp.ones((2, 3)), "two": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}

    def function(w, x):
        return (x @ w["one"] + x @ w["two"]) @ w["out"]

    groups = compaction.find_channels(function, weights, jnp.ones(2)).groups
    rank, counts = jnp.arange(3), {"one": 2, "two": 2}
    for ranked, tied, left in (
        ({"one": rank}, False, 3),
        ({"one": rank}, True, 3),
        ({"one": rank, "two": rank}, False, 3),
        ({"one": rank, "two": rank}, True, 1),
    ):
        small = narrow(weights, groups, ranked, counts, tied=tied)
        assert [small[name].shape for name in weights] == [(2, left), (2, left), (left, 1)]
