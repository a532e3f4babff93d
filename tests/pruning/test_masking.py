"""Pruning: golden values, masks by hand, one program for all sparsities."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning
from bbo.types import UsageError


def prune(params, sparsity, *, granularity, criterion="l2", scope="local", **options):
    """As the pipeline does it; returns pruned parameters."""
    meaning = options.pop("meaning", "published")
    scored = pruning.scores(params, criterion=criterion, granularity=granularity, **options)
    ranked = pruning.ranks(scored, scope=scope)
    counts = pruning.drop_counts(scored, sparsity, scope=scope)
    return pruning.apply_masks(params, pruning.masks(params, ranked, counts, meaning=meaning))


def test_golden(golden_dir):
    arrays = np.load(golden_dir / "prune.npz")
    for number, case in enumerate(json.loads((golden_dir / "prune.json").read_text())):
        w, out = arrays[f"{number}/w"], arrays[f"{number}/out"]
        if w.ndim == 4:
            w, out = (np.transpose(x, (2, 3, 1, 0)) for x in (w, out))
        with jax.enable_x64(True):
            pruned = prune(
                {"kernel": jnp.asarray(w)},
                case["fraction"],
                granularity=case["granularity"],
                on="kernel",
            )
        np.testing.assert_array_equal(pruned["kernel"], out, err_msg=f"case {number}")


KERNEL = jnp.array([3.0, 1.0, 2.0, 4.0]).reshape(1, 1, 1, 4)


def kept_filters(kernel, sparsity, **options):
    pruned = prune({"kernel": kernel}, sparsity, granularity="filter", **options)
    return np.asarray(pruned["kernel"] != 0).any((0, 1, 2)).tolist()


def test_filters_by_hand():
    assert kept_filters(KERNEL, 0.0) == [True, True, True, True]
    assert kept_filters(KERNEL, 0.25) == [True, False, True, True]
    assert kept_filters(KERNEL, 0.74) == [True, False, False, True]
    assert kept_filters(KERNEL, 0.75) == [False, False, False, True]
    assert kept_filters(KERNEL, 1.0) == [False, False, False, False]


def test_ties_stay():
    tied = jnp.array([1.0, 1.0, 1.0, 4.0]).reshape(1, 1, 1, 4)
    assert kept_filters(tied, 0.5) == [True, True, True, True]
    assert kept_filters(tied, 0.75) == [False, False, False, True]


def test_scopes_of_weights():
    kernel = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])[None, None]
    local = prune({"kernel": kernel}, 0.5, granularity="weight")["kernel"][0, 0]
    np.testing.assert_array_equal(local != 0, [[False] * 2, [False] * 2, [True] * 2, [True] * 2])
    layer = prune({"kernel": kernel}, 0.5, granularity="weight", scope="layer")["kernel"][0, 0]
    np.testing.assert_array_equal(layer != 0, [[False, True]] * 4)


def test_two_dimensional_kernels():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 2))
    norms = np.sqrt(np.sum(np.square(kernel), axis=(0, 1)))
    expected = norms >= np.sort(norms, axis=0)[2]
    pruned = np.asarray(prune({"kernel": kernel}, 0.5, granularity="kernel")["kernel"])
    np.testing.assert_array_equal((pruned != 0).all((0, 1)), expected)
    np.testing.assert_array_equal((pruned != 0).any((0, 1)), expected)


def test_global_scope_spares_the_best_of_each_layer():
    params = {"weak": {"kernel": KERNEL / 100}, "strong": {"kernel": KERNEL}}
    pruned = prune(params, 0.5, granularity="filter", scope="global")
    kept = {
        name: np.asarray(layer["kernel"] != 0).ravel().tolist() for name, layer in pruned.items()
    }
    assert kept == {"weak": [False, False, False, True], "strong": [True, True, True, True]}


def test_clean_removes_what_follows_the_filter_and_published_does_not():
    ones = jnp.ones(4)
    params = {
        "conv": {"kernel": KERNEL, "bias": ones},
        "conv_norm": {"scale": ones, "bias": ones},
        "other_norm": {"scale": ones, "bias": ones},
        "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    }
    half = [True, False, False, True]
    clean = prune(params, 0.5, granularity="filter", meaning="clean")
    assert (clean["conv"]["bias"] != 0).tolist() == half
    assert (clean["conv_norm"]["scale"] != 0).tolist() == half
    assert (clean["conv_norm"]["bias"] != 0).tolist() == half
    published = prune(params, 0.5, granularity="filter", meaning="published")
    assert (published["conv"]["kernel"].ravel() != 0).tolist() == half
    for untouched in (clean["other_norm"], clean["head"], published["conv_norm"]):
        assert all((leaf != 0).all() for leaf in jax.tree.leaves(untouched))
    assert (published["conv"]["bias"] == 1).all()


def test_pruned_filter_is_zero_even_where_it_was_not_finite():
    kernel = KERNEL.at[0, 0, 0, 1].set(0.0)
    masks = {"kernel": jnp.array([True, False, True, True])}
    pruned = pruning.apply_masks({"kernel": kernel.at[0, 0, 0, 1].set(jnp.nan)}, masks)
    assert pruned["kernel"].ravel().tolist() == [3.0, 0.0, 2.0, 4.0]


def test_criteria():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 5))
    scale = jnp.array([0.1, -0.5, 0.3, -0.2, 0.4])
    params = {"conv": {"kernel": kernel}, "conv_norm": {"scale": scale, "bias": scale}}
    gradients = jax.tree.map(lambda x: 2 * x + 1, params)
    filters = np.asarray(kernel, np.float64).reshape(-1, 5)

    def score(criterion, granularity="filter"):
        options = {"gradients": gradients, "rng": jax.random.key(1)}
        found = pruning.scores(params, criterion=criterion, granularity=granularity, **options)
        return np.asarray(found["conv/kernel"])

    np.testing.assert_allclose(score("l1"), np.abs(filters).sum(0), rtol=1e-5)
    np.testing.assert_allclose(score("l2"), np.linalg.norm(filters, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(score("norm_scale"), np.abs(scale))
    expected = np.square((filters * (2 * filters + 1)).sum(0))
    np.testing.assert_allclose(score("taylor"), expected, rtol=1e-4)
    apart = np.linalg.norm(filters[:, :, None] - filters[:, None, :], axis=0).sum(0)
    np.testing.assert_allclose(score("geometric_median"), apart, rtol=1e-4)
    assert score("random").shape == (5,) and len(set(score("random").tolist())) == 5
    assert score("l2", "kernel").shape == (2, 5) and score("taylor", "weight").shape == (3, 3, 2, 5)


def test_one_program_serves_every_sparsity():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 10))
    scored = pruning.scores({"kernel": kernel}, criterion="l2", granularity="filter")
    ranked = pruning.ranks(scored)
    traces = []

    @jax.jit
    def compiled(counts):
        traces.append(1)
        return pruning.masks({"kernel": kernel}, ranked, counts)

    for tenth in range(11):
        counts = pruning.drop_counts(scored, tenth / 10)
        eager = pruning.masks({"kernel": kernel}, ranked, counts)["kernel"]
        traced = compiled({name: jnp.int32(count) for name, count in counts.items()})["kernel"]
        np.testing.assert_array_equal(eager, traced)
        assert int(eager.sum()) == 10 - tenth
        assert float(pruning.kept_fraction(ranked, counts)) == pytest.approx(1 - tenth / 10)
    assert len(traces) == 1


def test_drop_counts_use_the_authors_arithmetic():
    scored = {"kernel": np.zeros(100)}
    assert pruning.drop_counts(scored, 0.29)["kernel"] == int(100 * 0.29) == 28
    assert pruning.drop_counts(scored, 0.7)["kernel"] == 70


@pytest.mark.parametrize("sparsity", [-0.1, 1.2])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(UsageError, match=r"sparsity is .* must be in \[0, 1\]"):
        pruning.drop_counts({"kernel": np.zeros(4)}, sparsity)


def test_missing_norm_is_named():
    with pytest.raises(UsageError, match="conv/kernel has none"):
        pruning.scores({"conv": {"kernel": KERNEL}}, criterion="norm_scale", granularity="filter")


def test_clean_finds_norms_by_the_rule_it_is_given():
    ones = jnp.ones(4)
    params = {
        "Conv_0": {"kernel": KERNEL, "bias": ones},
        "BatchNorm_0": {"scale": ones, "bias": ones},
    }
    scored = pruning.scores(params, criterion="l2", granularity="filter")
    ranked, counts = pruning.ranks(scored), pruning.drop_counts(scored, 0.5)
    with pytest.raises(UsageError, match="Conv_0/kernel has no Conv_0_norm/scale"):
        pruning.masks(params, ranked, counts)
    without = pruning.masks(params, ranked, counts, norm=lambda name: ())
    assert without["BatchNorm_0"]["scale"].all() and not without["Conv_0"]["bias"].all()
    masks = pruning.masks(params, ranked, counts, norm=lambda name: "BatchNorm_0")
    assert masks["BatchNorm_0"]["scale"].tolist() == masks["Conv_0"]["bias"].tolist()
    assert masks["BatchNorm_0"]["bias"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_scores_of_narrow_types_are_not_tied(dtype):
    kernel = (100 * jax.random.normal(jax.random.key(0), (3, 3, 16, 64))).astype(dtype)
    scored = pruning.scores({"kernel": kernel}, criterion="l2", granularity="filter")["kernel"]
    assert scored.dtype == jnp.float32 and len(set(scored.tolist())) == 64


@pytest.mark.parametrize(
    "wrong",
    [
        {"criterion": "l3"},
        {"granularity": "filtre"},
        {"granularity": "kernel", "criterion": "geometric_median"},
        {"scope": "Global"},
        {"meaning": "Clean"},
    ],
)
def test_wrong_words_are_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .* must be"):
        prune({"kernel": KERNEL}, 0.5, **({"granularity": "filter"} | wrong))


def test_clean_masks_the_names_of_haiku_and_refuses_those_of_nobody():
    ones = jnp.ones(4)
    params = {"conv": {"w": KERNEL, "b": ones}, "norm": {"scale": ones, "offset": ones}}
    clean = pruning.prune(params, 0.5, norm=lambda name: "norm")
    half = [True, False, False, True]
    for leaf in (clean["conv"]["b"], clean["norm"]["scale"], clean["norm"]["offset"]):
        assert (leaf != 0).tolist() == half
    params = {"conv": {"kernel": KERNEL, "beta": ones}, "head": jnp.float32(1)}
    with pytest.raises(UsageError, match=r"conv/beta has a number for each filter.*channels="):
        pruning.prune(params, 0.5)
    assert (pruning.prune(params, 0.5, meaning="published")["conv"]["beta"] == 1).all()


def test_of_a_kernel_that_has_no_norm_kernel_and_bias_go():
    params = {
        "conv": {"kernel": KERNEL, "bias": jnp.ones(4)},
        "other_norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
    }
    scored = pruning.scores(params, criterion="l2", granularity="filter")
    chosen = pruning.ranks(scored), pruning.drop_counts(scored, 0.5)
    masks = pruning.masks(params, *chosen, norm=lambda kernel: ())
    assert masks["conv"]["bias"].tolist() == [True, False, False, True]
    assert masks["other_norm"]["scale"].all() and masks["other_norm"]["bias"].all()
    with pytest.raises(UsageError, match="conv/kernel has no conv_norm/scale"):
        pruning.masks(params, *chosen)
