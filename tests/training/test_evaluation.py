"""Evaluation: sums by hand, calibration, and uneven batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.pipeline.points import join_classes
from bbo.training.evaluation import batch_sums, evaluate

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
    sums = batch_sums(LOGITS, LABELS, jnp.array([True, True, True, False]))
    exact = np.asarray(LOGITS, np.float64)[:3]
    losses = np.log(np.exp(exact).sum(1)) - exact[range(3), [1, 0, 2]]
    np.testing.assert_allclose(sums.pop("loss"), losses.sum(), rtol=1e-6)
    assert (float(sums["count"]), float(sums["top1"]), float(sums["top5"])) == (3.0, 1.0, 2.0)
    assert sums["class_count"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert sums["class_top1"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    whole = batch_sums(LOGITS, LABELS, jnp.ones(4, bool))
    assert (float(whole["count"]), float(whole["top1"]), float(whole["top5"])) == (4.0, 2.0, 3.0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_network_that_says_nothing_gets_no_credit(value):
    logits = jnp.full((2, 7), value, jnp.float32)
    sums = batch_sums(logits, jnp.array([0, 6]), jnp.ones(2, bool))
    assert float(sums["top1"]) == float(sums["top5"]) == 0


def test_ties_get_no_credit():
    logits = jnp.array(
        [[2.0, 2.0, 1.0, 0, 0, 0, 0], [1.0, 1, 1, 1, 1, 1, 0], [1.0, 1, 1, 1, 1, 0, 0]]
    )
    sums = batch_sums(logits, jnp.zeros(3, jnp.int32), jnp.ones(3, bool))
    assert (float(sums["top1"]), float(sums["top5"])) == (0.0, 2.0)
    another_nan = jnp.array([[2.0, jnp.nan, 0, 0, 0, 0, 0]])
    sums = batch_sums(another_nan, jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
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
    sums = batch_sums(jnp.asarray(odds, jnp.float32), labels, valid)
    gap = np.zeros(15)
    gap[13], gap[8] = 0.9 + 0.9 - 1, 0.6 - 1
    np.testing.assert_allclose(sums["gap"], gap, atol=1e-6)
    found = evaluate(lambda _: sums, [None])
    assert found["ece"] == pytest.approx((0.8 + 0.4) / 3, rel=1e-6)
    assert found["ece"] == pytest.approx(calibration_error(odds[:3], np.array([0, 1, 1])), rel=1e-6)


def test_the_surest_of_all_networks_is_in_the_last_bin():
    logits = jnp.array([[100.0, 0, 0], [0, 100.0, 0]])
    sums = batch_sums(logits, jnp.array([0, 0]), jnp.ones(2, bool))
    np.testing.assert_allclose(sums["gap"], [0] * 14 + [1], atol=1e-6)


def test_calibration_and_classes_over_padded_batches():
    generator = np.random.default_rng(1)
    logits = 3 * generator.standard_normal((23, 7)).astype(np.float32)
    labels = generator.integers(0, 6, 23).astype(np.int32)  # nothing is of class 6
    traces = []

    @jax.jit
    def sums(batch):
        traces.append(1)
        return batch_sums(*batch)

    rows = [np.arange(start, start + 5) for start in range(0, 23, 5)]
    found = evaluate(sums, [(logits[r % 23], labels[r % 23], r < 23) for r in rows])
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
    sums = jax.jit(batch_sums)

    def passed_in(size):
        rows = [np.arange(start, start + size) for start in range(0, 13, size)]
        batches = [(logits[row % 13], labels[row % 13], row < 13) for row in rows]
        return evaluate(lambda batch: sums(*batch), batches)

    whole = passed_in(13)
    assert 0 < whole["top1"] < whole["top5"] < 1
    for size in (4, 20):
        assert passed_in(size) == pytest.approx(whole, rel=1e-6, abs=1e-7, nan_ok=True)
