"""Pruned networks in training: outputs, gradients and statistics are those of the masked one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import masking
import networks
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from bbo import compaction, types
from bbo.compaction import channels


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for features in (6, 5):
            x = nn.Conv(features, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(4)(x.mean((1, 2)))


MODEL = Network()
IMAGES = jnp.asarray(np.random.default_rng(3).standard_normal((3, 6, 6, 3)), jnp.float32)
VARIABLES = masking.draw(jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES))


def infer(variables, images):
    return MODEL.apply(variables, images, False)


def train(variables, images):
    """Logits, and the next statistics in a dict as that of the variables."""
    return MODEL.apply(variables, images, True, mutable=["batch_stats"])


def second(result):
    return result[1]


FOUND = channels.find_channels(infer, VARIABLES, IMAGES)
UNITS = [np.isin(np.arange(group.size), (1, 4)) for group in FOUND.removable]
CUT = channels.cut_of(FOUND.removable, UNITS)


def listed(cut):
    return {member: positions.tolist() for member, positions in cut.items()}


def check_training(train, small, masked, cut, *inputs, tolerance=1e-5, updates=second):
    """One pass and its gradient, masked and small: what is left is equal."""

    def passed(function, variables):
        def loss(variables):
            result = function(variables, *inputs)
            return jnp.sum(result[0] ** 2), result

        return jax.value_and_grad(loss, has_aux=True, allow_int=True)(variables)

    (_, full), gradient = masking.fast_jit(lambda v: passed(train, v))(masked)
    (_, less), small_gradient = masking.fast_jit(lambda v: passed(small.function, v))(
        small.variables
    )
    assert masking.difference(full[0], less[0]) <= tolerance
    new = compaction.smaller(updates(full), cut)
    assert jax.tree.structure(new) == jax.tree.structure(updates(less))
    assert masking.difference(new, updates(less)) <= tolerance
    # As one vector: a bias in front of a norm has no gradient but rounding.
    gradients = [
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(tree) if g.dtype == jnp.float32])
        for tree in (compaction.smaller(gradient, cut), small_gradient)
    ]
    assert masking.difference(*gradients) <= tolerance


def test_statistics_are_fixed_unless_they_are_the_next_variables():
    for updates, size in ((None, 0), (second, 11)):
        found = channels.find_channels(train, VARIABLES, IMAGES, updates=updates)
        assert sum(group.size for group in found.removable) == size


def test_the_channels_are_those_of_the_network_at_test():
    found = channels.find_channels(train, VARIABLES, IMAGES, updates=second)
    kinds = [{member: p.tolist() for member, p in g.members.items()} for g in found.removable]
    assert kinds == [{m: p.tolist() for m, p in g.members.items()} for g in FOUND.removable]


def test_dead_channels_are_found_in_training():
    masked = masking.masked(VARIABLES, masking.written(FOUND.removable, UNITS))
    small = compaction.compact(train, masked, IMAGES, updates=second)
    assert listed(small.cut) == listed(CUT)
    check_training(train, small, masked, CUT, IMAGES)
    assert jax.tree.map(jnp.shape, small.function(small.variables, IMAGES)[1]) == {
        "batch_stats": {
            "BatchNorm_0": {"mean": (4,), "var": (4,)},
            "BatchNorm_1": {"mean": (3,), "var": (3,)},
        }
    }


def test_the_cut_of_the_network_at_test_is_one_of_its_training():
    masked = masking.masked(VARIABLES, masking.written(FOUND.removable, UNITS))
    cut = compaction.compact(infer, masked, IMAGES).cut
    small = compaction.compact(train, masked, IMAGES, removed=cut, updates=second)
    check_training(train, small, masked, cut, IMAGES)
    # Several steps, with statistics that go around.
    variables = [masked, small.variables]
    for _ in range(3):
        variables = [
            {**now, **function(now, IMAGES)[1]}
            for now, function in zip(variables, (train, small.function), strict=True)
        ]
    small_now = compaction.compact(infer, masked, IMAGES).function(variables[1], IMAGES)
    assert masking.difference(infer(variables[0], IMAGES), small_now) <= 1e-5


def test_a_step_of_training_gives_the_next_variables():
    def step(variables, images):
        def loss(params):
            logits, new = train({**variables, "params": params}, images)
            return jnp.sum(logits**2), new

        gradient, new = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda w, g: w - 0.1 * g, variables["params"], gradient)
        return {"params": params, **new}

    # Removed though they live: what is left then learns as if they had been zero.
    small = compaction.compact(step, VARIABLES, IMAGES, removed=CUT, updates=lambda new: new)
    masked = masking.masked(VARIABLES, masking.written(FOUND.removable, UNITS))
    full = compaction.smaller(step(masked, IMAGES), CUT)
    assert masking.difference(full, small.function(small.variables, IMAGES)) <= 1e-5


def test_a_bundled_residual_network():
    name = "wrn10_1"
    model, images = networks.build(name, width=0.5), networks.random_images(name)
    variables = masking.draw(jax.eval_shape(model.init, jax.random.key(0), images))

    def train(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    found = channels.find_channels(model.apply, variables, images)
    units = masking.random_units(found.removable, np.random.default_rng(0))
    masked = masking.masked(variables, masking.written(found.removable, units))
    cut = channels.cut_of(found.removable, units)
    small = compaction.compact(train, masked, images, updates=second)
    assert listed(small.cut) == listed(cut)
    full = masking.fast_jit(train)(masked, images)
    less = masking.fast_jit(small.function)(small.variables, images)
    assert masking.difference(full[0], less[0]) <= 1e-4
    new = compaction.smaller(second(full), cut)
    assert masking.difference(jax.tree.leaves(new), jax.tree.leaves(second(less))) <= 1e-4


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.last = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def test_nnx_gives_its_whole_state():
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    names = {("first/kernel", 1), ("first/bias", 0), ("norm/scale", 0), ("norm/bias", 0)}
    masked = masking.masked(state, {member: np.array([0, 2]) for member in names})

    def train(state, x):
        model = nnx.merge(graph, state)
        model.train()
        return model(x), nnx.state(model)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((7, 3)), jnp.float32)
    small = compaction.compact(train, masked, x, updates=second)
    assert small.cut["last/kernel", 0].tolist() == small.cut["norm/mean", 0].tolist() == [0, 2]
    check_training(train, small, masked, small.cut, x)
    # Of the state, the statistics alone.
    statistics = lambda result: nnx.filter_state(result[1], nnx.BatchStat)  # noqa: E731
    refused = channels.find_channels(train, masked, x, updates=statistics)
    assert refused.removable == []  # the parameters are results too


def test_equinox_gives_its_state():
    class Module(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        last: eqx.nn.Linear

        def __init__(self, key):
            self.first = eqx.nn.Linear(3, 6, key=key)
            self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="ema")
            self.last = eqx.nn.Linear(6, 2, key=key)

        def __call__(self, x, state):
            x, state = self.norm(self.first(x), state)
            return self.last(jax.nn.relu(x)), state

    model, state = eqx.nn.make_with_state(Module)(jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_array)
    names = {("0/first/weight", 0), ("0/first/bias", 0), ("0/norm/weight", 0), ("0/norm/bias", 0)}
    masked = masking.masked((arrays, state), {member: np.array([0, 2]) for member in names})

    def train(variables, x):
        arrays, state = variables
        over = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(eqx.combine(arrays, rest), **over)(x, state)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((7, 3)), jnp.float32)
    updates = lambda result: (None, result[1])  # noqa: E731
    small = compaction.compact(train, masked, x, updates=updates)
    assert small.cut["0/last/weight", 1].tolist() == [0, 2]
    full, less = train(masked, x), small.function(small.variables, x)
    assert masking.difference(full[0], less[0]) <= 1e-5
    new = [compaction.smaller(updates(full), small.cut), updates(less)]
    numbers = jax.tree.map(jnp.float32, new)  # one says whether it is the first time
    assert masking.difference(*numbers) <= 1e-5


def test_what_only_gives_its_own_next_value_stays_whole():
    def step(w, x):
        h = jnp.tanh(x @ w["a"]) @ w["b"]
        return h, {"unread": w["unread"] * 0.9, "mean": w["mean"] * 0.9 + (x @ w["a"]).mean(0)}

    shapes = {"a": (3, 8), "b": (8, 2), "unread": (4,), "mean": (8,)}
    w = masking.draw({name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()})
    found = channels.find_channels(step, w, jnp.ones((5, 3)), updates=second)
    fixed = {name: group.fixed for group in found.groups for name, _ in group.members}
    assert fixed["unread"] == "the function does not read it"
    assert fixed["mean"] == ""
    assert compaction.compact(step, w, jnp.ones((5, 3)), updates=second).cut == {}


WRONG = {
    "picks nothing": lambda result: None,
    "'BatchNorm_0/mean', and no variable is called so; there are batch_stats/B": (
        lambda result: result[1]["batch_stats"]
    ),
    r"'params/Dense_0/bias' of shape \[3, 4\], but the variable has \[4\]": (
        lambda result: {"params": {"Dense_0": {"bias": result[0]}}}
    ),
    "which is no array of the result": lambda result: {"batch_stats": jnp.ones(3)},
}


@pytest.mark.parametrize("message", WRONG)
def test_updates_that_are_no_variables(message):
    with pytest.raises(types.UsageError, match=message):
        channels.find_channels(train, VARIABLES, IMAGES, updates=WRONG[message])


@pytest.mark.parametrize(
    "name, axis, positions, message",
    [
        ("Conv_0/kernel", 3, [1], "which is no variable of the function"),
        ("params/Conv_0/kernel", 4, [1], r"which has the shape \[3, 3, 3, 6\]"),
        ("params/Conv_0/kernel", 3, [6], r"\[6\] of axis 3 of .* the shape \[3, 3, 3, 6\]"),
    ],
)
def test_a_cut_of_other_variables_is_refused(name, axis, positions, message):
    with pytest.raises(types.UsageError, match=message):
        compaction.compact(infer, VARIABLES, IMAGES, removed={(name, axis): np.array(positions)})
