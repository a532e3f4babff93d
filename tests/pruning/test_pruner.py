"""The pruner is the three steps, taken once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import compaction, pruning
from bbo.pruning.pruner import kept_costs
from bbo.types import UsageError

KERNELS = np.random.default_rng(5).standard_normal((2, 3, 3, 4, 8)).astype(np.float32)
PARAMS = {f"conv{i}": {"kernel": jnp.asarray(KERNELS[i]), "bias": jnp.ones(8)} for i in (0, 1)}


def same(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("scope", ["local", "layer", "global"])
@pytest.mark.parametrize("granularity", ["filter", "kernel", "weight"])
def test_it_is_the_three_steps(granularity, scope):
    how = {"criterion": "l1", "granularity": granularity}
    scores = pruning.scores(PARAMS, **how)
    counts = pruning.drop_counts(scores, 0.6, scope=scope)
    masks = pruning.masks(PARAMS, pruning.ranks(scores, scope=scope), counts)
    pruner = pruning.prepare(PARAMS, scope=scope, **how)
    same(pruner.masks(0.6), masks)
    same(pruner.prune(0.6), pruning.apply_masks(PARAMS, masks))
    same(pruning.prune(PARAMS, 0.6, scope=scope, **how), pruner.prune(0.6))


def test_what_is_kept():
    pruner = pruning.prepare(PARAMS)
    kept = pruner.kept(0.5, macs={"conv0/kernel": 100, "conv1/kernel": 300})
    assert kept == {"units_kept": 0.5, "params_kept": 0.5, "macs_kept": 0.5}
    assert pruner.kept(0.0) == {"units_kept": 1.0, "params_kept": 1.0}


def test_scores_of_ones_own():
    first = {"conv0/kernel": jnp.arange(8.0)}
    pruned = pruning.prune(PARAMS, 0.25, criterion=first)
    gone = [np.flatnonzero(~np.any(layer["kernel"], axis=(0, 1, 2))) for layer in pruned.values()]
    assert [list(found) for found in gone] == [[0, 1], []]
    assert pruned["conv0"]["bias"].tolist() == [0.0] * 2 + [1.0] * 6

    def furthest(unit):
        return -jnp.sum(jnp.abs(unit.weights - 10), axis=unit.axes)

    scores = pruning.scores(PARAMS, criterion=furthest, granularity="filter")
    same(
        pruning.prune(PARAMS, 0.5, criterion=furthest), pruning.prune(PARAMS, 0.5, criterion=scores)
    )


def test_whole_groups():
    def function(variables, x):
        w = variables["params"]
        return (jax.nn.relu(x @ w["a"] + x @ w["b"])) @ w["c"]

    draw = np.random.default_rng(0).standard_normal
    params = {"a": draw((3, 6)), "b": draw((3, 6)), "c": draw((6, 2))}
    params = {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}
    found = compaction.find_channels(function, {"params": params}, jnp.ones((1, 3)))
    pruned = pruning.prune(params, 0.5, channels=found.within("params"))
    dead = [~np.any(np.asarray(pruned[name]), axis=0) for name in "ab"]
    np.testing.assert_array_equal(*dead)
    norms = np.sqrt(sum(np.square(np.asarray(params[name])).sum(0) for name in "ab"))
    assert set(np.flatnonzero(dead[0])) == set(np.argsort(norms)[:3])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scope": "group"}, "scope 'group' needs channels"),
        ({"criterion": "l3"}, "criterion is 'l3'"),
        ({"criterion": "norm_scale", "granularity": "weight"}, "'filter' for norm_scale"),
        ({"criterion": lambda unit: unit.weights}, r"scores of shape \(3, 3, 4, 8\) for conv0"),
    ],
)
def test_what_it_refuses(how, message):
    with pytest.raises(UsageError, match=message):
        pruning.prepare(PARAMS, **how)


def test_multiples_are_of_filters_in_their_layer():
    kept = pruning.prepare(PARAMS).at(0.7, round_to=4).kept
    assert float(kept["units_kept"]) == 0.5
    for how in ({"granularity": "weight"}, {"scope": "global"}):
        with pytest.raises(UsageError, match="except for filters that compete in their layer"):
            pruning.prepare(PARAMS, **how).at(0.7, round_to=4)


def test_kept_costs_by_hand():
    params = {"a": {"kernel": jnp.ones((1, 1, 3, 4)), "bias": jnp.ones(4)}, "b": jnp.ones((4, 2))}
    masks = {
        "a": {"kernel": jnp.array([True, False, False, False]), "bias": jnp.ones((), bool)},
        "b": jnp.ones((4, 2), bool).at[0, 0].set(False),
    }
    kept = kept_costs(params, masks, {"a/kernel": 1200, "b": 80})
    np.testing.assert_allclose(kept["params_kept"], (3 + 4 + 7) / (12 + 4 + 8), rtol=1e-6)
    np.testing.assert_allclose(kept["macs_kept"], (300 + 70) / 1280, rtol=1e-6)


def test_costs_may_exceed_32_bits():
    params = {"kernel": jnp.ones((1, 1, 1, 4))}
    masks = {"kernel": jnp.array([True, False, False, False])}
    kept = jax.jit(lambda m: kept_costs(params, m, {"kernel": 6_000_000_000}))(masks)
    assert float(kept["macs_kept"]) == float(kept["params_kept"]) == 0.25
