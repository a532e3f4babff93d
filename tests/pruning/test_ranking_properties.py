"""Scores, ranks and masks of random networks: what must hold whatever the numbers are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning
from bbo.settings.catalog import CRITERIA, UNITS

SCOPES = ("local", "layer", "global")


def random_params(seed):
    """Two convolutions and what dies with them, with ties and zeros among the weights."""
    generator = np.random.default_rng(seed)

    def draw(*shape):
        values = generator.standard_normal(shape).astype(np.float32)
        values.flat[generator.integers(values.size, size=3)] = 0
        values.flat[-1] = values.flat[0]
        return jnp.asarray(values)

    return {
        f"conv{i}": {"kernel": draw(3, 3, read, out), "bias": draw(out)}
        for i, (read, out) in enumerate([(2, 5), (5, 6)])
    }


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", UNITS)
def test_what_is_kept_at_a_sparsity_is_kept_at_every_lower_one(granularity, scope):
    for seed in range(3):
        params = random_params(seed)
        pruner = pruning.prepare(params, granularity=granularity, scope=scope)
        masks = [pruner.masks(sparsity) for sparsity in (0.0, 0.15, 0.5, 0.8, 1.0)]
        assert all(np.all(leaf) for leaf in jax.tree.leaves(masks[0]))
        for more, less in itertools.pairwise(masks):
            for at_lower, at_higher in zip(
                jax.tree.leaves(more), jax.tree.leaves(less), strict=True
            ):
                assert not np.any(at_higher & ~at_lower)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", UNITS)
def test_ranks_are_those_of_the_scores_by_any_monotone_map(granularity, scope):
    for seed in range(3):
        scores = pruning.scores(random_params(seed), criterion="l2", granularity=granularity)
        expected = pruning.ranks(scores, scope=scope)
        for change in (lambda x: 4 * x, lambda x: x - 8, lambda x: jnp.where(x > 1, 2 * x, x)):
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
def test_scores_move_with_the_filters(criterion, granularity):
    for seed in range(3):
        params, gradients = random_params(seed), random_params(seed + 10)
        order = np.random.default_rng(seed).permutation(6)

        def moved(tree, order=order):
            return tree | {"conv1": jax.tree.map(lambda leaf: leaf[..., order], tree["conv1"])}

        how = {"criterion": criterion, "granularity": granularity}
        first = pruning.scores(params, gradients=gradients, **how)
        second = pruning.scores(moved(params), gradients=moved(gradients), **how)
        found, expected = second["conv1/kernel"], first["conv1/kernel"][..., order]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert len(np.unique(np.asarray(expected))) > 1
        np.testing.assert_array_equal(second["conv0/kernel"], first["conv0/kernel"])
