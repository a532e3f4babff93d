"""Pruning of any tree: a mistake in one sentence, or a tree of the same shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import odd_trees
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bbo import pruning, trees
from bbo.settings.catalog import CRITERIA, MEANINGS, UNITS
from bbo.types import UsageError

SCOPES = ("local", "layer", "global")


@given(
    tree=odd_trees.TREES,
    sparsity=st.floats(0, 1) | st.floats() | st.sampled_from([0, 1, np.float32(0.5)]),
    criterion=st.sampled_from([*CRITERIA, "l2", "l1"]),
    granularity=st.sampled_from([*UNITS, "filter"]),
    on=odd_trees.SELECTORS,
    scope=st.sampled_from(SCOPES),
    meaning=st.sampled_from(MEANINGS),
)
def test_what_is_not_selected_stays_and_the_rest_keeps_its_shape(
    tree, sparsity, criterion, granularity, on, **how
):
    def check(rng):
        scored = pruning.scores(
            tree,
            criterion=criterion,
            granularity=granularity,
            on=on or pruning.convolutions,
            gradients=tree,
            rng=rng,
        )
        leaves, axes = trees.flatten(tree), {"weight": None, "kernel": 2, "filter": 1}[granularity]
        for name, scores in scored.items():
            shape = leaves[name].shape
            assert scores.shape == (shape if axes is None else shape[-axes:])
        pruned = pruning.prune(tree, sparsity, criterion=scored, **how)
        assert jax.tree.structure(pruned) == jax.tree.structure(tree)
        for leaf, other in zip(*map(jax.tree.leaves, (tree, pruned)), strict=True):
            assert np.shape(other) == np.shape(leaf)
            assert jnp.result_type(other) == jnp.result_type(leaf)

    try:
        jax.eval_shape(check, jax.random.key(0))
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("meaning", MEANINGS)
@given(scores=st.dictionaries(odd_trees.NAMES | st.just("conv/kernel"), odd_trees.ODD_ARRAYS))
def test_scores_of_something_else_are_refused(meaning, scores):
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)}}
    fits = all(np.shape(x) in [(4,), (2, 4), (3, 3, 2, 4)] for x in scores.values())
    assume(not scores or set(scores) - {"conv/kernel"} or not fits)
    with pytest.raises(UsageError):
        jax.eval_shape(lambda: pruning.prune(params, 0.5, criterion=scores, meaning=meaning))
