"""Zero channels that stay: which, how many, and why."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from flax import linen as nn
from masking import X, dense

from bbo import compaction, types
from bbo.compaction import channels
from bbo.compaction.staying import ALIVE, IN_PART, LAST, NOT_ASKED, OTHERS, READER, Staying

WITH_OTHERS = f"{ALIVE}: {{}} puts it together with what is not zero there, such as a mean over"
MAKES = f"{ALIVE}: {{}} makes of zero what is not"


def two_pass(w, h):
    h = h - h.mean(axis=-1, keepdims=True)
    return (h / jnp.sqrt((h * h).mean(axis=-1, keepdims=True) + 1e-3)) @ w["b"]


def standardized(w, h):
    kernel = w["b"] - w["b"].mean(axis=0)
    return jax.nn.relu(h) @ kernel


def biased(w, h):
    return jax.nn.relu(h * w["scale"] + w["shift"]) @ w["b"]


def looped(w, h):
    return jax.lax.scan(lambda s, _: (s + jnp.cos(h) @ w["b"], None), jnp.zeros((5, 4)), None, 2)[0]


REASONS = {
    "two-pass LayerNorm": (two_pass, WITH_OTHERS.format("sub") + " channels"),
    "standardized reader": (standardized, f"{READER} (b)"),
    "bias": (biased, f"{OTHERS} (shift)"),
    "cos": (dense(jnp.cos), MAKES.format("cos")),
    "softplus": (dense(jax.nn.softplus), MAKES.format("exp")),
    "a number is added": (dense(lambda h: h + 1.0), MAKES.format("add")),
    "then restored, then lost": (
        dense(lambda h: jnp.cos(jnp.tanh(h) * jax.nn.sigmoid(h))),
        MAKES.format("cos"),
    ),
    "within a loop": (looped, MAKES.format("cos")),
    "in a branch": (
        dense(lambda h: jax.lax.cond(h[0, 0] > 0, jnp.sin, jnp.cos, h)),
        MAKES.format("cos"),
    ),
    "sorted": (dense(lambda h: jnp.sort(h, axis=1)), "it is sorted"),
    "result": (lambda w, h: h, "it is an axis of the result"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons(name):
    operation, reason = REASONS[name]
    case = masking.case(operation)
    variables = masking.masked(case.variables, {("a", 1): np.array([1, 2, 5])})
    small = compaction.compact(case.function, variables, X)
    assert small.report.staying == [Staying("a", 3, 8, reason)]
    assert ("a", 1) not in small.cut


@pytest.mark.parametrize("name", REASONS)
def test_what_is_not_zero_is_not_spoken_of(name):
    case = masking.case(REASONS[name][0])
    assert compaction.compact(case.function, case.variables, X).report.staying == []


def test_channels_that_are_gone_are_not_spoken_of():
    case = masking.case(dense(jnp.tanh))
    variables = masking.masked(case.variables, {("a", 1): np.array([1, 2, 5])})
    small = compaction.compact(case.function, variables, X)
    assert len(small.cut["a", 1]) == 3 and small.report.staying == []
    asked = compaction.compact(case.function, variables, X, removed={})
    assert asked.report.staying == [Staying("a", 3, 8, NOT_ASKED)]


def test_of_a_dead_layer_one_stays():
    case = masking.case(dense(jnp.tanh))
    variables = masking.masked(case.variables, {("a", 1): np.arange(8)})
    small = compaction.compact(case.function, variables, X)
    assert small.report.staying == [Staying("a", 1, 8, LAST)]


def test_a_part_of_a_unit():
    case = masking.case(dense(lambda h: jax.nn.softmax(h.reshape(5, 2, 4)).reshape(5, 8)))
    variables = masking.masked(case.variables, {("a", 1): np.array([0, 1, 4, 5, 6, 7])})
    reasons = {s.reason: s.channels for s in masking_report(case, variables).staying}
    assert reasons == {IN_PART: 2, MAKES.format("exp"): 4}


def masking_report(case, variables):
    return compaction.compact(case.function, variables, X).report


def test_kernels_that_share_channels():
    weights = masking.draw({name: jnp.zeros((6, 8)) for name in "pq"} | {"o": jnp.zeros((8, 3))})
    weights = masking.masked(weights, {("p", 1): np.array([0, 1, 2]), ("q", 1): np.array([2, 3])})
    small = compaction.compact(
        lambda w, x: (x @ w["p"] + jnp.tanh(x @ w["q"])) @ w["o"], weights, X
    )
    assert small.cut["o", 0].tolist() == [2]
    assert sorted(small.report.staying) == [
        Staying("p", 2, 8, f"{OTHERS} (q)"),
        Staying("q", 1, 8, f"{OTHERS} (p)"),
    ]
    assert str(small.report).splitlines() == [
        "Channels that are zero and stay:",
        f"  {OTHERS} (q): p (2 of 8)",
        f"  {OTHERS} (p): q (1 of 8)",
    ]


def test_of_traced_variables_nothing_can_be_told():
    case = masking.case(dense(jnp.tanh))
    cut = masking.cut_of(case, (1, 2))

    def shapes(removed):
        def small(variables):
            found = compaction.compact(case.function, variables, X, removed=removed)
            assert found.report.staying == []
            return found.variables

        return jax.eval_shape(small, case.variables)

    assert shapes(cut)["a"].shape == (6, 6)
    with pytest.raises(types.UsageError, match="variables are traced.*or give removed="):
        shapes(None)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(2)(x.mean((1, 2)))


def test_what_a_norm_still_adds_is_named():
    images = jnp.ones((1, 4, 4, 3))
    variables = masking.draw(jax.eval_shape(Normed().init, jax.random.key(0), images))
    cut = {("params/Conv_0/kernel", 3): np.array([1, 4])}
    small = compaction.compact(Normed().apply, masking.masked(variables, cut), images)
    (found,) = small.report.staying
    names = "batch_stats/BatchNorm_0/mean"
    assert found == Staying("params/Conv_0/kernel", 2, 6, f"{OTHERS} ({names})")
    cut["params/BatchNorm_0/scale", 0] = np.array([1, 4])
    small = compaction.compact(Normed().apply, masking.masked(variables, cut), images)
    (found,) = small.report.staying
    assert "params/BatchNorm_0/bias" in found.reason


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + self.param("positions", nn.initializers.zeros, (5, 6))
        return nn.Dense(3)(nn.MultiHeadDotProductAttention(2)(x, x))


def test_zero_biases_of_two_axes_are_no_kernels():
    x = jnp.ones((2, 5, 6))
    variables = Attention().init(jax.random.key(0), x)
    assert variables["params"]["MultiHeadDotProductAttention_0"]["query"]["bias"].shape == (2, 3)
    assert compaction.compact(Attention().apply, variables, x).report.staying == []


def test_zero_rows_of_a_window_or_a_table_are_no_channels():
    def function(w, x, words):
        h = jax.lax.conv(x, w["kernel"], (1, 1), "SAME").mean((2, 3))
        return (h + w["table"][words]) @ w["out"]

    weights = masking.draw(
        {"kernel": jnp.zeros((4, 3, 3, 3)), "table": jnp.zeros((7, 4)), "out": jnp.zeros((4, 2))}
    )
    weights["kernel"] = weights["kernel"].at[:, :, 0].set(0.0)
    weights["table"] = weights["table"].at[0].set(0.0)
    inputs = jnp.ones((2, 3, 5, 5)), jnp.zeros(2, int)
    assert compaction.compact(function, weights, *inputs).report.staying == []
    (hidden,) = channels.find_channels(function, weights, *inputs).removable
    assert set(hidden.writers) == {("kernel", 0), ("table", 1)}
