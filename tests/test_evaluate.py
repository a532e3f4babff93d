"""Evaluation: sums by hand, uneven batches, costs by hand, and a curve of few programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import evaluate, pruning
from bbo.config import PruningConfig

LABELS = jnp.array([1, 0, 2, 3], jnp.int32)
LOGITS = jnp.array(
    [
        [0.0, 5.0, 1.0, 2.0, 3.0, 4.0, -1.0],  # the label is first
        [1.0, 9.0, 8.0, 7.0, 6.0, 0.0, 0.0],  # the label is fifth
        [9.0, 8.0, 0.0, 7.0, 6.0, 5.0, -1.0],  # the label is sixth
        [0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0],  # padding
    ]
)


def test_sums_by_hand():
    sums = evaluate.batch_sums(LOGITS, LABELS, jnp.array([True, True, True, False]))
    exact = np.asarray(LOGITS, np.float64)[:3]
    losses = np.log(np.exp(exact).sum(1)) - exact[range(3), [1, 0, 2]]
    np.testing.assert_allclose(sums.pop("loss"), losses.sum(), rtol=1e-6)
    assert {name: float(value) for name, value in sums.items()} == {
        "count": 3.0,
        "top1": 1.0,
        "top5": 2.0,
    }
    whole = evaluate.batch_sums(LOGITS, LABELS, jnp.ones(4, bool))
    assert (float(whole["count"]), float(whole["top1"]), float(whole["top5"])) == (4.0, 2.0, 3.0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_network_that_says_nothing_gets_no_credit(value):
    logits = jnp.full((2, 7), value, jnp.float32)
    sums = evaluate.batch_sums(logits, jnp.array([0, 6]), jnp.ones(2, bool))
    assert float(sums["top1"]) == float(sums["top5"]) == 0


def test_ties_get_no_credit():
    logits = jnp.array(
        [[2.0, 2.0, 1.0, 0, 0, 0, 0], [1.0, 1, 1, 1, 1, 1, 0], [1.0, 1, 1, 1, 1, 0, 0]]
    )
    sums = evaluate.batch_sums(logits, jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
    assert (float(sums["top1"]), float(sums["top5"])) == (0.0, 2.0)
    another_nan = jnp.array([[2.0, jnp.nan, 0, 0, 0, 0, 0]])
    sums = evaluate.batch_sums(another_nan, jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
    assert (float(sums["top1"]), float(sums["top5"])) == (0.0, 1.0)


def test_uneven_batches_equal_one_pass():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((13, 7)).astype(np.float32)
    labels = generator.integers(0, 7, 13).astype(np.int32)
    sums = jax.jit(evaluate.batch_sums)

    def passed_in(size):
        rows = [np.arange(start, start + size) for start in range(0, 13, size)]
        batches = [(logits[row % 13], labels[row % 13], row < 13) for row in rows]
        return evaluate.evaluate(lambda batch: sums(*batch), batches)

    whole = passed_in(13)
    assert 0 < whole["top1"] < whole["top5"] < 1
    for size in (4, 20):
        assert passed_in(size) == pytest.approx(whole, rel=1e-6)


def test_kept_costs_by_hand():
    params = {"a": {"kernel": jnp.ones((1, 1, 3, 4)), "bias": jnp.ones(4)}, "b": jnp.ones((4, 2))}
    masks = {
        "a": {"kernel": jnp.array([True, False, False, False]), "bias": jnp.ones((), bool)},
        "b": jnp.ones((4, 2), bool).at[0, 0].set(False),
    }
    kept = evaluate.kept_costs(params, masks, {"a/kernel": 1200, "b": 80})
    np.testing.assert_allclose(kept["params_kept"], (3 + 4 + 7) / (12 + 4 + 8), rtol=1e-6)
    np.testing.assert_allclose(kept["macs_kept"], (300 + 70) / 1280, rtol=1e-6)


def make_variables():
    kernels = np.random.default_rng(0).standard_normal((2, 3, 3, 2, 4)).astype(np.float32)
    return {
        "params": {f"conv{i}": {"kernel": jnp.asarray(kernels[i])} for i in (0, 1)},
        "batch_stats": {"mean": jnp.zeros(4)},
    }


@pytest.fixture(scope="module")
def curve():
    """The rows, how often each program was traced, and the measure of the unpruned network."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield draw_curve(monkeypatch)


def draw_curve(monkeypatch):
    traces = {"masks": 0, "ranks": 0, "evaluate": 0}

    def count(name, original):
        def counted(*args, **options):
            traces[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(pruning, name, counted)

    count("masks", pruning.masks)
    count("ranks", pruning.ranks)

    @jax.jit
    def measure(variables):
        traces["evaluate"] += 1
        leaves = jax.tree.leaves(variables["params"])
        return sum(jnp.sum(jnp.abs(x)) for x in leaves) + jnp.sum(variables["batch_stats"]["mean"])

    variables = make_variables()
    config = PruningConfig(sparsities=(0.0, 0.25, 0.5, 0.9), granularity=("filter", "weight"))
    tools = evaluate.CurveTools(
        scores=lambda unit: pruning.scores(variables["params"], criterion="l2", granularity=unit),
        recoveries={
            "none": lambda v: v,
            "batch_norm": lambda v: v | {"batch_stats": {"mean": v["batch_stats"]["mean"] + 1}},
        },
        evaluate=lambda v: {"test_top1": float(measure(v))},
        macs={"conv0/kernel": 100, "conv1/kernel": 300},
    )
    return list(evaluate.pruning_curve(variables, config, tools)), traces, float(measure(variables))


def test_curve_is_traced_once_per_granularity_and_evaluated_by_one_program(curve):
    rows, traces, _ = curve
    assert len(rows) == 2 * 4 * 2
    assert traces == {"masks": 2, "ranks": 2, "evaluate": 1}


def test_curve_rows(curve):
    rows, _, unpruned = curve
    columns = "criterion granularity scope meaning recovery sparsity achieved_sparsity "
    columns += "units_kept params_kept macs_kept test_top1"
    assert all(set(row) == set(columns.split()) for row in rows)
    points = [(row["granularity"], row["sparsity"], row["recovery"]) for row in rows]
    assert points == [
        (granularity, sparsity, recovery)
        for granularity in ("filter", "weight")
        for sparsity in (0.0, 0.25, 0.5, 0.9)
        for recovery in ("none", "batch_norm")
    ]
    for row in rows:
        # A filter competes with three others, a weight with the 17 others of its filter.
        units = 4 if row["granularity"] == "filter" else 18
        achieved = int(units * row["sparsity"]) / units
        share = {"params_kept": 1 - achieved, "macs_kept": 1 - achieved, "units_kept": 1 - achieved}
        assert {name: row[name] for name in share} == pytest.approx(share, abs=1e-6)
        assert row["achieved_sparsity"] == pytest.approx(achieved, abs=1e-6)
    mended = {row["recovery"]: row["test_top1"] for row in rows if row["sparsity"] == 0}
    assert mended["none"] == unpruned
    assert mended["batch_norm"] == pytest.approx(unpruned + 4)


def test_curve_measures_the_pruned_network(curve):
    rows, _, _ = curve
    kernels = [np.asarray(c["kernel"]) for c in make_variables()["params"].values()]

    def remaining(kernel):
        norms = np.linalg.norm(kernel.reshape(-1, 4), axis=0)
        return np.abs(kernel)[..., norms >= np.sort(norms)[2]].sum()

    (row,) = (
        row
        for row in rows
        if (row["granularity"], row["sparsity"], row["recovery"]) == ("filter", 0.5, "none")
    )
    np.testing.assert_allclose(row["test_top1"], sum(map(remaining, kernels)), rtol=1e-6)


def test_costs_may_exceed_32_bits():
    params = {"kernel": jnp.ones((1, 1, 1, 4))}
    masks = {"kernel": jnp.array([True, False, False, False])}
    kept = jax.jit(lambda m: evaluate.kept_costs(params, m, {"kernel": 6_000_000_000}))(masks)
    assert float(kept["macs_kept"]) == float(kept["params_kept"]) == 0.25
