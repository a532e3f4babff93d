"""Random numbers within a function: channels of them go, and those that are left stay the same."""

import functools

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from bbo import compaction
from bbo.compaction import channels

X = masking.X
WEIGHTS = masking.draw({"a": jax.ShapeDtypeStruct((6, 8), "float32"), "o": jnp.zeros((8, 3))})
DEAD = masking.masked(WEIGHTS, {("a", 1): np.array([1, 2, 6])})


def dropped(w, x, key):
    h = jax.nn.relu(x @ w["a"])
    return jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h / 0.5, 0) @ w["o"]


def with_mask(w, x, key):
    h = jnp.tanh(x @ w["a"])
    return (h * jnp.float32(jax.random.bernoulli(key, 0.5, h.shape))) @ w["o"]


def with_noise(draw, w, x, key):
    h = jnp.tanh(x @ w["a"])
    return (h * (1.0 + 0.1 * jnp.float32(draw(key, h.shape)))) @ w["o"]


def a_mask_for_all_images(w, x, key):
    h = jnp.tanh(x @ w["a"])
    return (h * jnp.float32(jax.random.bernoulli(key, 0.5, (8,)))) @ w["o"]


def a_key_of_its_own(w, x, key):
    h = jnp.tanh(x @ w["a"])
    keys = jax.random.split(key, 5)
    return (h * jax.vmap(lambda key: jax.random.uniform(key, (8,)))(keys)) @ w["o"]


def a_key_for_each_channel(w, x, key):
    h = jnp.tanh(x @ w["a"])
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (5,)))(jax.random.split(key, 8))
    return (h * drawn.T) @ w["o"]


def a_key_of_the_program(w, x, key):
    del key
    return with_mask(w, x, jax.random.key(7))


def in_a_loop(w, x, key):
    def body(total, number):
        return total + with_mask(w, x, jax.random.fold_in(key, number)), None

    return lax.scan(body, jnp.zeros((5, 3)), jnp.arange(3))[0]


DRAWS = {
    "bernoulli, where": dropped,
    "bernoulli, times": with_mask,
    "uniform": functools.partial(with_noise, jax.random.uniform),
    "normal": functools.partial(with_noise, jax.random.normal),
    "truncated": functools.partial(
        with_noise, lambda k, s: jax.random.truncated_normal(k, -1, 1, s)
    ),
    "gumbel": functools.partial(with_noise, jax.random.gumbel),
    "laplace": functools.partial(with_noise, jax.random.laplace),
    "randint": functools.partial(with_noise, lambda k, s: jax.random.randint(k, s, 0, 5)),
    "rademacher": functools.partial(with_noise, jax.random.rademacher),
    "of channels": a_mask_for_all_images,
    "split": a_key_of_its_own,
    "split by channels": a_key_for_each_channel,
    "constant key": a_key_of_the_program,
    "loop": in_a_loop,
}


RAW = ("bernoulli, where", "split by channels", "loop")
"""Tried with the numbers of a key, too."""


@pytest.mark.parametrize(
    "name, make",
    [(name, jax.random.key) for name in DRAWS] + [(name, jax.random.PRNGKey) for name in RAW],
)
def test_channels_beside_random_numbers(name, make):
    function, key = DRAWS[name], make(3)
    small = compaction.compact(function, DEAD, X, key)
    assert {m: p.tolist() for m, p in small.cut.items()} == {
        ("a", 1): [1, 2, 6],
        ("o", 0): [1, 2, 6],
    }
    full, less = masking.fast_jit(function), masking.fast_jit(small.function)
    for number in (3, 4):
        given = less(small.variables, X, make(number))
        assert masking.difference(full(DEAD, X, make(number)), given) <= 1e-5


def test_another_generator():
    key = jax.random.key(0, impl="rbg")
    small = compaction.compact(dropped, DEAD, X, key)
    given = small.function(small.variables, X, key)
    assert masking.difference(dropped(DEAD, X, key), given) <= 1e-5


def test_added_noise_keeps_channels_and_living_ones_go_when_asked():
    def noisy(w, x, key):
        h = x @ w["a"]
        return (h + jax.random.normal(key, h.shape)) @ w["o"]

    key = jax.random.key(0)
    assert compaction.compact(noisy, DEAD, X, key).cut == {}
    (hidden,) = channels.find_channels(noisy, DEAD, X, key).removable
    cut = channels.cut_of([hidden], [np.isin(np.arange(8), (1, 2, 6))])
    small = compaction.compact(noisy, DEAD, X, key, removed=cut)
    masked = masking.masked(DEAD, {("o", 0): np.array([1, 2, 6])})
    given = small.function(small.variables, X, key)
    assert masking.difference(noisy(masked, X, key), given) <= 1e-5


def test_random_features_are_part_of_the_function():
    def projected(w, x):
        return jnp.tanh(x @ w["a"]) @ jax.random.normal(jax.random.key(1), (8, 3))

    small = compaction.compact(projected, DEAD, X)
    assert small.variables["a"].shape == (6, 5)
    assert masking.difference(projected(DEAD, X), small.function(small.variables, X)) <= 1e-5


def test_other_batch_sizes():
    key, x = jax.random.key(0), jnp.concatenate([X, X])
    small = compaction.compact(dropped, DEAD, X, key)
    given = jax.jit(small.function)(small.variables, x, key)
    assert masking.difference(dropped(DEAD, x, key), given) <= 1e-5


def test_keys_keep_channels_that_are_sorted():
    def shuffled(w, x, key):
        return jax.random.permutation(key, x @ w["a"], axis=1, independent=True) @ w["o"]

    found = channels.find_channels(shuffled, DEAD, X, jax.random.key(0))
    assert found.removable == [] and any("sort" in group.fixed for group in found.groups)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(3)(x)


def test_linen():
    function = lambda v, x, key: Linen().apply(v, x, rngs={"dropout": key})  # noqa: E731
    key = jax.random.key(5)
    variables = masking.draw(jax.eval_shape(Linen().init, {"params": key, "dropout": key}, X))
    names = ("params/Dense_0/kernel", 1), ("params/Dense_0/bias", 0)
    variables = masking.masked(variables, {member: np.array([0, 3]) for member in names})
    small = compaction.compact(function, variables, X, key)
    assert small.cut["params/Dense_1/kernel", 0].tolist() == [0, 3]
    given = small.function(small.variables, X, key)
    assert masking.difference(function(variables, X, key), given) <= 1e-5


def test_nnx_counts_its_draws():
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.first(x))))

    graph, state = nnx.split(Module(nnx.Rngs(0)))
    names = ("first/kernel", 1), ("first/bias", 0)
    state = masking.masked(state, {member: np.array([0, 3]) for member in names})

    def train(state, x):
        model = nnx.merge(graph, state)
        return model(x), nnx.state(model)

    small = compaction.compact(train, state, X, updates=lambda result: result[1])
    assert small.cut["last/kernel", 0].tolist() == [0, 3]
    full, less = state, small.variables
    logits = []
    for _ in range(2):
        (one, full), (other, less) = train(full, X), small.function(less, X)
        assert masking.difference(one, other) <= 1e-5
        logits.append(one)
    assert masking.difference(*logits) > 0.1  # other draws
    assert int(less["drop"]["rngs"]["count"][...]) == 2
