"""Evaluation: sums by hand, uneven batches, costs by hand, and a curve of few programs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning
from bbo.pipeline.points import CurveTools, join_classes, pruning_curve
from bbo.pruning import pruner
from bbo.settings.sections import PruningConfig
from bbo.training import evaluation as evaluate

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
    assert (float(sums["count"]), float(sums["top1"]), float(sums["top5"])) == (3.0, 1.0, 2.0)
    assert sums["class_count"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert sums["class_top1"].tolist() == [0, 1, 0, 0, 0, 0, 0]
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


def calibration_error(logits, labels):
    """Of float64 logits [n, classes], as it is defined; 15 bins, each with its upper edge."""
    exact = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exact / exact.sum(1, keepdims=True)
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low in range(15):
        inside = (low / 15 < confidence) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


def test_calibration_error_by_hand():
    # Of two classes: confidence 0.9 twice, one of them right; and 0.6, right.
    odds = np.log(np.array([[9.0, 1.0], [9.0, 1.0], [2.0, 3.0], [1.0, 1.0]]))
    labels, valid = jnp.array([0, 1, 1, 0]), jnp.array([True, True, True, False])
    sums = evaluate.batch_sums(jnp.asarray(odds, jnp.float32), labels, valid)
    gap = np.zeros(15)
    gap[13], gap[8] = 0.9 + 0.9 - 1, 0.6 - 1
    np.testing.assert_allclose(sums["gap"], gap, atol=1e-6)
    found = evaluate.evaluate(lambda _: sums, [None])
    assert found["ece"] == pytest.approx((0.8 + 0.4) / 3, rel=1e-6)
    assert found["ece"] == pytest.approx(calibration_error(odds[:3], np.array([0, 1, 1])), rel=1e-6)


def test_the_surest_of_all_networks_is_in_the_last_bin():
    logits = jnp.array([[100.0, 0, 0], [0, 100.0, 0]])
    sums = evaluate.batch_sums(logits, jnp.array([0, 0]), jnp.ones(2, bool))
    np.testing.assert_allclose(sums["gap"], [0] * 14 + [1], atol=1e-6)


def test_calibration_and_classes_over_padded_batches():
    generator = np.random.default_rng(1)
    logits = 3 * generator.standard_normal((23, 7)).astype(np.float32)
    labels = generator.integers(0, 6, 23).astype(np.int32)  # nothing is of class 6
    traces = []

    @jax.jit
    def sums(batch):
        traces.append(1)
        return evaluate.batch_sums(*batch)

    rows = [np.arange(start, start + 5) for start in range(0, 23, 5)]
    found = evaluate.evaluate(sums, [(logits[r % 23], labels[r % 23], r < 23) for r in rows])
    exact = calibration_error(logits.astype(np.float64), labels)
    assert found["ece"] == pytest.approx(exact, rel=1e-5) and exact > 0.1
    hits = logits.argmax(1) == labels
    by_class = [round(hits[labels == i].mean(), 4) for i in range(6)]
    assert [found[f"class_top1/{i}"] for i in range(6)] == by_class
    assert math.isnan(found["class_top1/6"]) and len(traces) == 1
    joined = join_classes(found)
    assert set(joined) == {"loss", "top1", "top5", "ece", "class_top1"}
    assert joined["class_top1"] == ";".join(f"{share:g}" for share in by_class) + ";"


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
        assert passed_in(size) == pytest.approx(whole, rel=1e-6, abs=1e-7, nan_ok=True)


def test_kept_costs_by_hand():
    params = {"a": {"kernel": jnp.ones((1, 1, 3, 4)), "bias": jnp.ones(4)}, "b": jnp.ones((4, 2))}
    masks = {
        "a": {"kernel": jnp.array([True, False, False, False]), "bias": jnp.ones((), bool)},
        "b": jnp.ones((4, 2), bool).at[0, 0].set(False),
    }
    kept = pruner.kept_costs(params, masks, {"a/kernel": 1200, "b": 80})
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
    traces = {"masks": 0, "evaluate": 0}

    def count(module, name):
        original = getattr(module, name)

        def counted(*args, **options):
            traces[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(pruner, "masks")
    pruner._pruned.clear_cache()

    @jax.jit
    def measure(variables):
        traces["evaluate"] += 1
        leaves = jax.tree.leaves(variables["params"])
        return sum(jnp.sum(jnp.abs(x)) for x in leaves) + jnp.sum(variables["batch_stats"]["mean"])

    variables = make_variables()
    config = PruningConfig(sparsities=(0.0, 0.25, 0.5, 0.9), granularity=("filter", "weight"))
    tools = CurveTools(
        prepare=lambda unit: pruning.prepare(variables["params"], granularity=unit),
        mend=lambda name, v: (
            v if name == "none" else v | {"batch_stats": {"mean": v["batch_stats"]["mean"] + 1}}
        ),
        evaluate=lambda v: {"test_top1": float(measure(v))},
        macs={"conv0/kernel": 100, "conv1/kernel": 300},
    )
    return list(pruning_curve(variables, config, tools)), traces, float(measure(variables))


def test_curve_is_traced_once_per_granularity_and_evaluated_by_one_program(curve):
    rows, traces, _ = curve
    assert len(rows) == 2 * 4 * 2
    assert traces == {"masks": 2, "evaluate": 1}


def test_curve_rows(curve):
    rows, _, unpruned = curve
    columns = "criterion granularity scope meaning recovery sparsity achieved_sparsity "
    columns += "units_kept params_kept macs_kept test_top1 error"
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
    kept = jax.jit(lambda m: pruner.kept_costs(params, m, {"kernel": 6_000_000_000}))(masks)
    assert float(kept["macs_kept"]) == float(kept["params_kept"]) == 0.25
