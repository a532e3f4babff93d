"""What is removed and what is not, and what can be done with the smaller function."""

import jax
import jax.export
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from flax import linen as nn

from bbo import compaction, types
from bbo.compaction import channels


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        for features in (6, 5):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(4)(x.mean((1, 2)))


MODEL = Network()
IMAGES = jnp.asarray(np.random.default_rng(3).standard_normal((3, 8, 8, 3)), jnp.float32)
VARIABLES = masking.draw(jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES))
FOUND = channels.find_channels(MODEL.apply, VARIABLES, IMAGES)
UNITS = [np.isin(np.arange(group.size), (1, 4)) for group in FOUND.removable]


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


@pytest.fixture(scope="module")
def dead():
    return masking.masked(VARIABLES, masking.written(FOUND.removable, UNITS))


@pytest.fixture(scope="module")
def small(dead):
    return compaction.compact(MODEL.apply, dead, IMAGES)


def test_shapes_that_are_left(small):
    assert shapes(small.variables["params"]) == {
        "Conv_0": {"kernel": (3, 3, 3, 4)},
        "Conv_1": {"kernel": (3, 3, 4, 3)},
        "BatchNorm_0": {"scale": (4,), "bias": (4,)},
        "BatchNorm_1": {"scale": (3,), "bias": (3,)},
        "Dense_0": {"kernel": (3, 4), "bias": (4,)},
    }


def test_the_arrays_that_are_left_are_those_that_were_there(small, dead):
    kept = np.ix_(range(3), range(3), (0, 2, 3, 5), (0, 2, 3))
    given = small.variables["params"]["Conv_1"]["kernel"]
    np.testing.assert_array_equal(given, np.asarray(dead["params"]["Conv_1"]["kernel"])[kept])


def test_nothing_dead_changes_nothing():
    whole = compaction.compact(MODEL.apply, VARIABLES, IMAGES)
    assert whole.cut == {}
    pairs = zip(jax.tree.leaves(whole.variables), jax.tree.leaves(VARIABLES), strict=True)
    assert all(one is other for one, other in pairs)
    given = jax.jit(whole.function)(VARIABLES, IMAGES)
    np.testing.assert_array_equal(given, jax.jit(MODEL.apply)(VARIABLES, IMAGES))


def test_a_channel_whose_norm_still_shifts_it_stays():
    cut = {("params/Conv_0/kernel", 3): np.array([1, 4])}
    assert compaction.compact(MODEL.apply, masking.masked(VARIABLES, cut), IMAGES).cut == {}


def test_one_channel_of_a_dead_layer_stays():
    units = [np.ones(group.size, bool) for group in FOUND.removable]
    zeroed = masking.masked(VARIABLES, masking.written(FOUND.removable, units))
    small = compaction.compact(MODEL.apply, zeroed, IMAGES)
    assert small.variables["params"]["Conv_0"]["kernel"].shape == (3, 3, 3, 1)
    assert small.variables["params"]["Conv_1"]["kernel"].shape == (3, 3, 1, 1)
    given = small.function(small.variables, IMAGES)
    assert masking.difference(MODEL.apply(zeroed, IMAGES), given) <= 1e-6


KEPT = {
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "cos": jnp.cos,
    "0 / 0": lambda h: h / jnp.sqrt(jnp.sum(h * h, axis=0)),
    "log": lambda h: jnp.log(jnp.abs(h)),
    "infinite": lambda h: jnp.exp(h) - 0.5,
}
GONE = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "where": lambda h: jnp.where(h > 0.1, h, jnp.zeros_like(h)),
    "softsign": jax.nn.soft_sign,
    "safe length": lambda h: h / jnp.sqrt(jnp.sum(h * h, axis=0) + 1e-6),
}


@pytest.mark.parametrize("name", KEPT)
def test_channels_that_are_not_zero_where_their_kernel_is(name):
    case = masking.case(masking.dense(KEPT[name]))
    variables = masking.masked(case.variables, {("a", 1): np.array([1, 4])})
    assert ("a", 1) not in compaction.compact(case.function, variables, masking.X).cut


@pytest.mark.parametrize("name", GONE)
def test_channels_that_are_zero_where_their_kernel_is(name):
    case = masking.case(masking.dense(GONE[name]))
    variables = masking.masked(case.variables, {("a", 1): np.array([1, 4])})
    assert compaction.compact(case.function, variables, masking.X).cut["a", 1].tolist() == [1, 4]


def test_living_channels_are_removed_when_asked(dead, small):
    cut = channels.cut_of(FOUND.removable, UNITS)
    asked = compaction.compact(MODEL.apply, VARIABLES, IMAGES, removed=cut)
    assert shapes(asked.variables) == shapes(small.variables)
    given = asked.function(asked.variables, IMAGES)
    assert masking.difference(MODEL.apply(dead, IMAGES), given) <= 1e-5


def test_a_fixed_group_is_refused():
    head = next(group for group in FOUND.groups if group.name == "params/Dense_0/kernel")
    with pytest.raises(types.UsageError, match="Dense_0/kernel can be removed: it is an axis of"):
        channels.cut_of([head], [np.arange(4) < 2])


def test_a_cut_through_channels_is_refused():
    cut = channels.cut_of(FOUND.removable, UNITS)
    del cut["params/BatchNorm_0/scale", 0]
    with pytest.raises(types.UsageError, match="of params/Conv_0/kernel is removed in part"):
        compaction.compact(MODEL.apply, VARIABLES, IMAGES, removed=cut)
    cut = {("params/Dense_0/kernel", 1): np.array([0]), ("params/Dense_0/bias", 0): np.array([0])}
    with pytest.raises(types.UsageError, match="axis of the result; .*updates=lambda result"):
        compaction.compact(MODEL.apply, VARIABLES, IMAGES, removed=cut)


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (5, 8, 8, 3), (2, 11, 9, 3)])
def test_other_sizes_than_those_traced(small, dead, shape):
    images = jnp.asarray(np.random.default_rng(4).standard_normal(shape), jnp.float32)
    given = jax.jit(small.function)(small.variables, images)
    assert masking.difference(MODEL.apply(dead, images), given) <= 1e-5


def test_vmap(small, dead):
    given = jax.vmap(small.function, (None, 0))(small.variables, IMAGES[:, None])
    assert masking.difference(MODEL.apply(dead, IMAGES)[:, None], given) <= 1e-5


def test_gradients_are_those_of_the_masked_network(small, dead):
    def loss(function):
        return jax.jit(jax.grad(lambda variables: jnp.sum(function(variables, IMAGES) ** 2)))

    full = compaction.smaller(loss(MODEL.apply)(dead), small.cut)
    assert masking.difference(full, loss(small.function)(small.variables)) <= 1e-5


def test_export_with_any_batch_size(small, dead):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), small.variables)
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 8, 8, 3"), jnp.float32)
    exported = jax.export.export(jax.jit(small.function))(like, images)
    for count in (1, 3):
        given = exported.call(small.variables, IMAGES[:count])
        assert masking.difference(MODEL.apply(dead, IMAGES[:count]), given) <= 1e-5


SYMBOLIC = {
    "slice": lambda h: h[1:].sum(0),
    "first": lambda h: h[:1] + h,
    "concatenation": lambda h: jnp.concatenate([h, h[:2], jnp.ones((3, 8))]),
    "pad": lambda h: jnp.pad(h, ((1, 2), (0, 0))),
    "merged": lambda h: h.reshape(-1),
    "tile": lambda h: jnp.tile(h, (2, 1)),
    "split": lambda h: jnp.split(h.reshape(-1, 2, 4), 2, axis=1)[0],
    "flip": lambda h: h[::-1],
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_export_of_what_moves_along_the_batch(name):
    def function(w, x):
        return SYMBOLIC[name](jnp.tanh(x @ w["a"]) @ w["b"])

    weights = masking.draw(
        {
            "a": jax.ShapeDtypeStruct((6, 5), jnp.float32),
            "b": jax.ShapeDtypeStruct((5, 8), jnp.float32),
        }
    )
    weights = masking.masked(weights, {("a", 1): np.array([0, 2])})
    small = compaction.compact(function, weights, masking.X)
    assert small.cut["a", 1].tolist() == [0, 2]
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 6", constraints=["b >= 3"]), "f4")
    exported = jax.export.export(jax.jit(small.function))(small.variables, images)
    given = exported.call(small.variables, masking.X)
    assert masking.difference(function(weights, masking.X), given) <= 1e-5


def test_keys_among_the_variables():
    def function(w, x):
        noise = jax.random.normal(w["key"], x.shape[:1])
        return jnp.tanh(x @ w["a"]) @ w["b"] + noise[:, None]

    a = jnp.ones((6, 3)).at[:, 1].set(0.0)
    weights = {"a": a, "b": jnp.ones((3, 2)), "key": jax.random.key(0)}
    small = compaction.compact(function, weights, masking.X)
    assert shapes(small.variables) == {"a": (6, 2), "b": (2, 2), "key": ()}
    given = small.function(small.variables, masking.X)
    assert masking.difference(function(weights, masking.X), given) <= 1e-6
