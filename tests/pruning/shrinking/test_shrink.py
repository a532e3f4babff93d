"""Networks of anyone's, made smaller in one call."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bbo
from bbo.types import UsageError

X = jax.random.normal(jax.random.key(1), (4, 3))


def weights_of(**shapes):
    draw = np.random.default_rng(0).standard_normal
    return {name: jnp.asarray(draw(shape), jnp.float32) for name, shape in shapes.items()}


WEIGHTS = weights_of(a=(3, 8), b=(8,), c=(8, 16), d=(16, 2))


def network(w, x):
    hidden = jax.nn.relu(x @ w["a"] + w["b"])
    return jax.nn.relu(hidden @ w["c"]) @ w["d"]


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def test_half_is_kept_of_what_scores_most():
    small = bbo.shrink(network, WEIGHTS, X, keep=0.5)
    assert shapes(small.variables) == {"a": (3, 4), "b": (4,), "c": (4, 8), "d": (8, 2)}
    best = np.sort(np.argsort(np.linalg.norm(WEIGHTS["a"], axis=0))[4:])
    np.testing.assert_array_equal(small.variables["a"], WEIGHTS["a"][:, best])
    np.testing.assert_array_equal(small.masked["b"] != 0, np.isin(np.arange(8), best))
    np.testing.assert_allclose(
        small.function(small.variables, X), network(small.masked, X), rtol=1e-5, atol=1e-6
    )
    assert small.report.macs == (3 * 4 + 4 * 8 + 8 * 2) / (3 * 8 + 8 * 16 + 16 * 2)
    assert small.report.params == (12 + 4 + 32 + 16) / (24 + 8 + 128 + 32)
    assert small.report.difference < 1e-6


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({"keep": 0.6}, (5, 10)),
        ({"keep": 1.0}, (8, 16)),
        ({"keep": 0.3}, (3, 5)),
        ({"keep": 1 - 0.625}, (3, 6)),
        ({"keep": 0.01}, (1, 1)),
        ({"keep": 0.01, "at_least": 0.25}, (2, 4)),
        ({"keep": 0.3, "round_to": 4}, (4, 8)),
        ({"keep": {"^a$": 0.5}}, (4, 16)),
        ({"keep": {"^a$": 0.5, "^c$": 0.25}}, (4, 4)),
        ({"keep": 0.5, "ignore": "^a$"}, (8, 8)),
        ({"keep": 0.5, "ignore": ["^b$"]}, (8, 8)),
        ({"keep": 0.5, "on": "^a$"}, (4, 16)),
    ],
)
def test_how_much_is_kept(how, left):
    small = bbo.shrink(network, WEIGHTS, X, **how)
    first, second = left
    assert shapes(small.variables) == {
        "a": (3, first),
        "b": (first,),
        "c": (first, second),
        "d": (second, 2),
    }


@pytest.mark.parametrize("measure", ["macs", "params"])
def test_costs_are_reached_by_the_fewest_channels(measure):
    small = bbo.shrink(network, WEIGHTS, X, **{measure: 0.4})
    assert getattr(small.report, measure) <= 0.4
    kept = small.report.rows[0].channels - small.report.rows[0].asked
    more = bbo.shrink(network, WEIGHTS, X, keep=(kept + 1) / 8)
    assert getattr(more.report, measure) > 0.4


def test_all_compete():
    weights = WEIGHTS | {"a": 100 * WEIGHTS["a"], "b": 100 * WEIGHTS["b"]}
    small = bbo.shrink(network, weights, X, keep=0.5, scope="global")
    assert shapes(small.variables)["d"] == (4, 2)  # 12 of 24, all of them of the second layer
    assert shapes(small.variables)["a"] == (3, 8)


def test_a_criterion_of_ones_own():
    small = bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion="index")
    np.testing.assert_array_equal(small.variables["a"], WEIGHTS["a"][:, :4])
    last = lambda unit: -jnp.arange(unit.weights.shape[-1], 0.0, -1)  # noqa: E731
    small = bbo.shrink(network, WEIGHTS, X, keep=0.5, criterion=last)
    np.testing.assert_array_equal(small.variables["a"], WEIGHTS["a"][:, 4:])


def test_what_recovery_does_is_kept():
    def doubled(dense, pruned):
        np.testing.assert_array_equal(dense["a"], WEIGHTS["a"])
        return pruned | {"d": 2 * pruned["d"]}

    plain = bbo.shrink(network, WEIGHTS, X, keep=0.5)
    mended = bbo.shrink(network, WEIGHTS, X, keep=0.5, recover=doubled)
    np.testing.assert_array_equal(mended.variables["d"], 2 * plain.variables["d"])
    revived = bbo.shrink(
        network, WEIGHTS, X, keep=0.5, recover=lambda _, pruned: pruned | {"b": WEIGHTS["b"]}
    )
    row = revived.report.rows[0]
    assert (row.asked, row.removed) == (4, 0)
    assert "recovery has revived some" in str(revived.report)


def test_the_same_channels_of_another_function():
    small = bbo.shrink(network, WEIGHTS, X, keep=0.5)
    features = lambda w, x: jax.nn.relu(x @ w["a"] + w["b"]) @ w["c"] @ w["d"]  # noqa: E731
    from bbo import compaction

    other = compaction.compact(features, small.masked, X, removed=small.cut)
    np.testing.assert_allclose(
        other.function(other.variables, X), features(small.masked, X), rtol=1e-5
    )


def test_modules_of_other_libraries():
    key = jax.random.key(0)
    layers = [
        eqx.nn.Conv2d(3, 8, 3, key=key),
        eqx.nn.GroupNorm(8, 8),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(8, 16, 3, key=key),
        eqx.nn.Lambda(lambda x: x.mean((1, 2))),
        eqx.nn.Linear(16, 5, key=key),
    ]
    arrays, rest = eqx.partition(eqx.nn.Sequential(layers), eqx.is_array)
    images = jax.random.normal(key, (2, 3, 8, 8))
    small = bbo.shrink(lambda v, x: jax.vmap(eqx.combine(v, rest))(x), arrays, images, keep=0.5)
    assert small.variables.layers[3].weight.shape == (8, 4, 3, 3)
    graph, state = nnx.split(nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu))
    small = bbo.shrink(lambda s, x: nnx.merge(graph, s)(x).sum(-1), state, X, keep=0.5)
    assert sorted(x.shape for x in jax.tree.leaves(small.variables)) == [(3, 4), (4,)]


def test_shapes_are_not_compared():
    small = bbo.shrink(network, WEIGHTS, jax.ShapeDtypeStruct((4, 3), jnp.float32), keep=0.5)
    assert small.report.difference is None
    assert "not compared" in str(small.report)


def test_the_report():
    frozen = lambda w, x: jnp.sort(x @ w["a"]) @ w["c"] @ w["d"]  # noqa: E731
    report = str(bbo.shrink(frozen, WEIGHTS, X, keep=0.5).report)
    assert report.splitlines()[:4] == [
        "channels of  there  asked  removed",
        "c               16      8        8",
        "a                8      0        0  it is sorted",
        "d                2      0        0  it is an axis of the result",
    ]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "none of keep, macs and params is given; give one"),
        ({"keep": 0.5, "macs": 0.5}, "keep and macs of keep, macs and params is given"),
        ({"keep": 0.0}, r"keep is 0.0; it must be a number in \(0, 1\], or"),
        ({"keep": {"x": 0.5}}, "keep has 'x', which matches none of a, c"),
        ({"keep": {"a": 0.5, "^a$": 0.4}}, "keep says 0.5 .* and 0.4 .* of a"),
        ({"macs": 0.01}, "macs is 0.01; removing can leave no less than 0.0326"),
        ({"keep": 0.5, "scope": "local"}, "scope is 'local'; it must be one of group, global"),
        ({"keep": 0.5, "ignore": "x"}, "ignore has 'x', which matches none of"),
        ({"keep": 0.5, "ignore": "."}, "no channel can be removed .*a: it is ignored"),
        ({"keep": 0.5, "round_to": 0}, "round_to is 0; it must be 1 or more"),
        ({"keep": 0.5, "at_least": 1}, r"at_least is 1; it must be in \[0, 1\)"),
        ({"keep": {"a": 0.5}, "scope": "global"}, "keep is .*; it must be one number, as all"),
    ],
)
def test_what_it_refuses(how, message):
    with pytest.raises(UsageError, match=message):
        bbo.shrink(network, WEIGHTS, X, **how)
