"""What is pooled with what, and what is no running average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import trees
from bbo.pruning import recovery
from bbo.types import UsageError

ROWS = np.random.default_rng(0).standard_normal((23, 3)) * np.linspace(0.5, 3, 23)[:, None] + 2
PARTS = [ROWS[:16], ROWS[16:]]
"""Batches of 16 and of 7."""


@pytest.mark.parametrize(
    ("mean", "var"),
    [("running_mean", "running_var"), ("moving_mean", "moving_variance"), ("mean", "variance")],
)
def test_pairs_are_known_by_their_names(mean, var):
    def train(old, x):
        del old
        return {"bn": {mean: x.mean(0), var: x.var(0)}}

    variables = {"bn": {mean: jnp.zeros(3), var: jnp.ones(3)}}
    found = recovery.reestimate(train, variables, PARTS)["bn"]
    np.testing.assert_allclose(found[mean], ROWS.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[var], ROWS.var(0), rtol=1e-6)
    # The weighted mean of the variances is another number.
    within = np.average([part.var(0) for part in PARTS], 0, [16, 7])
    assert (found[var] - within > 3e-3).all()


def test_a_mean_much_larger_than_the_deviation_cancels_nothing():
    shifted = [(part + 3000).astype(np.float32) for part in PARTS]

    def train(old, x):
        stats = {"mean": x.mean(0), "var": x.var(0)}
        return jax.tree.map(lambda a, b: 0.99 * a + (1 - 0.99) * b, old, stats)

    found = recovery.reestimate(train, {"mean": jnp.zeros(3), "var": jnp.ones(3)}, shifted)
    np.testing.assert_allclose(found["var"], np.concatenate(shifted).var(0), rtol=1e-3)


def mean_only(new):
    return lambda old, x: {"mean": new(old["mean"], x.mean(0))}


ERRORS = {
    "no array of floating type": lambda old, x: old,
    "1 times its old value": mean_only(lambda old, x: old - 0.1 * x),
    "2 times its old value": mean_only(lambda old, x: 2 * old + x),
    "-0.5 times its old value": mean_only(lambda old, x: -0.5 * old + x),
    "does not move mean as a running average": mean_only(lambda old, x: jnp.sqrt(jnp.abs(old)) + x),
    "values of mean that are not finite": mean_only(lambda old, x: 0.9 * old + jnp.nan * x),
    "gives other": lambda old, x: {"other": x.mean(0)},
    r"gives mean \(\)": lambda old, x: {"mean": x.mean()},
}


@pytest.mark.parametrize(("match", "train"), ERRORS.items(), ids=ERRORS)
def test_what_is_no_running_average_is_an_error(match, train):
    with pytest.raises(UsageError, match=match):
        recovery.reestimate(train, {"mean": jnp.ones(3)}, PARTS)


def constant(**leaves):
    variables = {name: jnp.zeros(()) for name in leaves}
    return lambda old, x: {name: f(x) for name, f in leaves.items()}, variables


def test_names_that_say_nothing_are_an_error_and_may_be_told():
    train, variables = constant(a=jnp.mean, b=jnp.var)
    with pytest.raises(UsageError, match="a is called neither mean nor var.*mean_of"):
        recovery.reestimate(train, variables, PARTS)
    found = recovery.reestimate(train, variables, PARTS, mean_of={"b": "a"}.get)
    np.testing.assert_allclose(found["b"], ROWS.var(), rtol=1e-6)
    train, variables = constant(var=jnp.var)
    with pytest.raises(UsageError, match="var has no mean: mean is not among"):
        recovery.reestimate(train, variables, PARTS)


def test_sizes_may_be_told_and_must_be_clear():
    train, variables = constant(mean=jnp.mean)
    step = lambda v, batch: train(v, batch["x"])  # noqa: E731
    parts = [{"x": part, "positions": np.zeros(3)} for part in PARTS]
    with pytest.raises(UsageError, match=r"have lengths \[3, 16\].*size="):
        recovery.reestimate(step, variables, parts)
    found = recovery.reestimate(step, variables, parts, size=lambda batch: len(batch["x"]))
    np.testing.assert_allclose(found["mean"], ROWS.mean(), rtol=1e-6)
    with pytest.raises(UsageError, match="no batches"):
        recovery.reestimate(train, variables, [])


def test_keys_that_training_uses_up_are_as_it_leaves_them():
    variables = {"mean": jnp.zeros(()), "key": jax.random.key(0), "flag": jnp.array(True)}

    def train(v, x):
        return {"mean": x.mean(), "key": jax.random.split(v["key"])[0], "flag": jnp.array(False)}

    found = recovery.reestimate(train, variables, PARTS)
    assert found["key"] == jax.random.split(variables["key"])[0] and not found["flag"]
    assert list(trees.flatten(found)) == ["flag", "key", "mean"]
