"""Scores, ranks and masks of random networks: what must hold whatever the numbers are."""

import jax
import jax.numpy as jnp
import numpy as np
import odd_trees
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbo import pruning
from bbo.settings.catalog import CRITERIA, UNITS

SCOPES = ("local", "layer", "global")
SPARSITIES = st.floats(0, 1)


def network(kinds):
    """Two convolutions and their biases."""
    layers = {"conv0": (2, 5), "conv1": (5, 6)}
    return st.fixed_dictionaries(
        {
            name: st.fixed_dictionaries(
                {
                    "kernel": odd_trees.arrays((3, 3, *sizes), kinds=kinds),
                    "bias": odd_trees.arrays(sizes[1:], kinds=kinds),
                }
            )
            for name, sizes in layers.items()
        }
    )


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", UNITS)
@given(params=network(tuple(odd_trees.BROKEN)), lower=SPARSITIES, higher=SPARSITIES)
def test_what_is_kept_at_a_sparsity_is_kept_at_every_lower_one(
    granularity, scope, params, lower, higher
):
    pruner = pruning.prepare(params, granularity=granularity, scope=scope)
    lower, higher = sorted((lower, higher))
    masks = [jax.tree.leaves(pruner.masks(share)) for share in (0.0, lower, higher)]
    assert all(np.all(leaf) for leaf in masks[0])
    for at_lower, at_higher in zip(*masks[1:], strict=True):
        assert not np.any(at_higher & ~at_lower)
    kept = pruner.kept(higher)["units_kept"]
    assert kept >= 1 - higher - 1e-6  # ties stay


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", UNITS)
@given(params=network(("plain", "ties", "some zeros")))
def test_ranks_are_those_of_the_scores_by_any_monotone_map(granularity, scope, params):
    scores = pruning.scores(params, criterion="l2", granularity=granularity)
    expected = pruning.ranks(scores, scope=scope)
    for change in (lambda x: 4 * x, lambda x: x / 8, lambda x: jnp.where(x > 1, 2 * x, x)):
        found = pruning.ranks({name: change(x) for name, x in scores.items()}, scope=scope)
        for name, ranks in expected.items():
            np.testing.assert_array_equal(found[name], ranks)


@pytest.mark.parametrize(
    ("criterion", "granularity"),
    [
        (name, unit)
        for name, units in CRITERIA.items()
        for unit in units
        if name not in ("random", "norm_scale", "index")  # which do not look at the weights
    ],
)
@given(
    params=network(tuple(odd_trees.KINDS)),
    gradients=network(("plain",)),
    order=st.permutations(range(6)).map(list),
)
def test_scores_move_with_the_filters(criterion, granularity, params, gradients, order):
    def moved(tree):
        return tree | {"conv1": jax.tree.map(lambda leaf: leaf[..., order], tree["conv1"])}

    how = {"criterion": criterion, "granularity": granularity}
    first = pruning.scores(params, gradients=gradients, **how)
    second = pruning.scores(moved(params), gradients=moved(gradients), **how)
    found, expected = second["conv1/kernel"], first["conv1/kernel"][..., order]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(second["conv0/kernel"], first["conv0/kernel"])
