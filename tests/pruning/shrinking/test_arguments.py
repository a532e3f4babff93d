"""Mistakes in what shrink is given end in a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bbo
from bbo import compaction, pruning
from bbo.types import UsageError

WEIGHTS = {"in": jnp.array([[3.0, 1.0, 2.0, 4.0]]), "out": jnp.ones((4, 2))}
X = jnp.ones((5, 1))


def network(w, x):
    return jax.nn.relu(x @ w["in"]) @ w["out"]


@pytest.mark.parametrize("keep", ["0.5", np.array([0.5, 0.2]), {"in": "half"}, None, float("nan")])
def test_a_share_is_a_number(keep):
    with pytest.raises(UsageError, match="keep"):
        bbo.shrink(network, WEIGHTS, X, keep=keep)
    with pytest.raises(UsageError, match=r"macs is \{.*; it must be a number in \(0, 1\]$"):
        bbo.shrink(network, WEIGHTS, X, macs={"in": 0.5})


def test_a_function_and_concrete_arrays_are_needed():
    with pytest.raises(UsageError, match=r"the function is a dict; call shrink\(function, var"):
        bbo.shrink(WEIGHTS, network, X, keep=0.5)
    with pytest.raises(UsageError, match=r"variables are float32\[5,1\], without inputs; call"):
        bbo.shrink(network, X, keep=0.5)
    with pytest.raises(UsageError, match="in is only a shape, .*give concrete arrays"):
        bbo.shrink(network, jax.eval_shape(lambda: WEIGHTS), X, keep=0.5)
    with pytest.raises(UsageError, match="in is just being traced, .* outside of jax.jit"):
        jax.jit(lambda w: bbo.shrink(network, w, X, keep=0.5).variables)(WEIGHTS)


def test_a_recovery_gives_the_whole_network():
    for wrong in (lambda a, b: None, lambda a, b: {"in": b["in"][:, :2], "out": b["out"][:2]}):
        with pytest.raises(UsageError, match="recover gives something else than the variables"):
            bbo.shrink(network, WEIGHTS, X, keep=0.5, recover=wrong)


def test_scores_may_be_made_before():
    units = pruning.describe(compaction.find_channels(network, WEIGHTS, X)).units
    slopes = {"in": jnp.array([[1.0, 2.0, 0.0, 0.1]]), "out": WEIGHTS["out"]}
    scores = pruning.channel_scores(WEIGHTS, units, criterion="taylor", gradients=slopes)
    small = bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion=scores)
    assert small.variables["in"].tolist() == [[3.0, 1.0]]
    with pytest.raises(UsageError, match="scores of out, but the channels are called in; make"):
        bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion={"out": jnp.ones(2)})
    with pytest.raises(UsageError, match=r"shape of scores of in is \(3,\); it must be \(4,\)"):
        bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion={"in": jnp.ones(3)})
    with pytest.raises(UsageError, match="there are no scores; give some of in"):
        bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion={})


def test_what_has_no_scores_stays_whole():
    weights = WEIGHTS | {"more": jnp.ones((2, 3)), "end": jnp.ones((3, 1))}

    def deeper(w, x):
        return jax.nn.relu(network(w, x) @ w["more"]) @ w["end"]

    small = bbo.shrink(deeper, weights, X, keep=0.5, criterion={"in": jnp.arange(4.0)})
    assert small.variables["in"].tolist() == [[2.0, 4.0]]
    assert [row.reason for row in small.report.rows if row.name == "more"] == ["it has no scores"]


@pytest.mark.parametrize("criterion", [None, lambda unit: 1.0])
def test_a_criterion_gives_a_score_for_each_filter(criterion):
    with pytest.raises(UsageError, match="criterion"):
        bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion=criterion)
