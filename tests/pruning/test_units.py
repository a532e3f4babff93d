"""Filters of one channel group get one score, and die with all of its norms."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from layers import conv

from bbo import compaction, pruning
from bbo.compaction import channels
from bbo.models.create import create_model, kept_channels
from bbo.pruning.units import Whole, channel_masks, describe, tie_scores
from bbo.settings.sections import ModelConfig
from bbo.types import UsageError

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
NETWORKS = ("thin_resnet18", "wrn10_1", "small_cnn")


def network(name):
    """A narrow network whose every parameter is some number, and its groups."""
    model = create_model(
        ModelConfig(model=name, width=0.5 if name[0] != "r" else 0.125), num_classes=10
    )
    like = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    draw = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: jnp.asarray(draw.uniform(0.5, 1.5, x.shape) * 0.3, jnp.float32), like
    )
    return model, variables, channels.find_channels(model.apply, variables, IMAGES)


def test_scores_of_a_group_are_those_of_all_filters_that_put_it_out():
    _, variables, found = network("thin_resnet18")
    units = describe(found.within("params")).units
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    tied = pruning.channel_scores(variables["params"], units)
    stream = ["stem/kernel", "stage1_block0/conv2/kernel", "stage1_block1/conv2/kernel"]
    together = np.sqrt(sum(np.square(scored[name]) for name in stream))
    of_stream = next(name for name in tied if name in stream)
    assert {name for name, _ in units[of_stream].kernels} == set(stream)
    np.testing.assert_allclose(tied[of_stream], together, rtol=1e-6)
    same = tie_scores(scored, units, criterion="l2")
    jax.tree.map(np.testing.assert_array_equal, tied, same)
    inner = "stage1_block0/conv1/kernel"
    np.testing.assert_allclose(tied[inner], scored[inner], rtol=1e-6)
    summed = tie_scores(scored, units, criterion="taylor")[of_stream]
    np.testing.assert_allclose(summed, sum(scored[name] for name in stream), rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_every_group_is_removed_and_the_small_network_equals_the_masked_one(name):
    model, variables, found = network(name)
    pruner = pruning.prepare(variables["params"], channels=found.within("params"))
    masked = variables | {"params": pruner.prune(0.5)}
    cut = compaction.dead_channels(found, masked)
    small = compaction.smaller(masked, cut)
    kept = kept_channels(small["params"])
    assert kept == {
        name: count - count // 2 for name, count in kept_channels(variables["params"]).items()
    }
    rebuilt = create_model(
        ModelConfig(model=name, width=7.0), num_classes=10, kept=kept
    )  # the width no longer matters
    whole = masking.fast_jit(model.apply)
    expected = whole(masked, IMAGES)
    found_logits = masking.fast_jit(rebuilt.apply)(small, IMAGES)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found_logits / scale, expected / scale, atol=1e-5)
    assert np.abs(whole(variables, IMAGES) - expected).max() > 0.01 * scale


def test_by_layer_alone_a_residual_stream_does_not_shrink():
    _, variables, found = network("thin_resnet18")
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    masks = pruning.masks(
        variables["params"], pruning.ranks(scored), pruning.drop_counts(scored, 0.5)
    )
    masked = variables | {"params": pruning.apply_masks(variables["params"], masks)}
    small = compaction.smaller(masked, compaction.dead_channels(found, masked))
    kept, whole = kept_channels(small["params"]), kept_channels(variables["params"])
    assert kept["stage1_block0/conv1"] == whole["stage1_block0/conv1"] // 2
    assert kept["stage3_block1/conv2"] > whole["stage3_block1/conv2"] // 2


def test_nothing_to_remove_is_an_error_that_says_why():
    variables = {"kernel": jnp.ones((3, 3, 3, 4))}
    convolve = lambda v, x: jax.lax.conv(x, v["kernel"].T, (1, 1), "SAME")  # noqa: E731
    found = channels.find_channels(convolve, variables, jnp.ones((1, 3, 8, 8)))
    with pytest.raises(
        UsageError, match="no channel can be removed .*kernel: it is an axis of the"
    ):
        pruning.prepare(variables, channels=found)


def random_weights(**shapes):
    draw = np.random.default_rng(0).standard_normal
    return {name: jnp.asarray(draw(shape), jnp.float32) for name, shape in shapes.items()}


def half_removed(function, weights, *inputs, **how):
    """How many positions of each axis are removed of what is pruned by half, exactly."""
    found = channels.find_channels(function, weights, *inputs)
    masked = pruning.prune(weights, 0.5, channels=found, **how)
    small = compaction.compact(function, masked, *inputs)
    expected = function(masked, *inputs)
    np.testing.assert_allclose(small.function(small.variables, *inputs), expected, atol=1e-5)
    return {member: len(positions) for member, positions in small.cut.items()}


def test_names_and_orders_of_norms_are_not_taken_for_granted():
    def turned(w, x):
        y = (x @ w["first"].T) * w["gamma"][::-1] + w["beta"]
        return jax.nn.relu(y) @ w["second"]

    weights = random_weights(first=(4, 3), gamma=(4,), beta=(4,), second=(4, 2))
    removed = half_removed(turned, weights, jnp.ones((1, 3)))
    assert removed == {("first", 0): 2, ("gamma", 0): 2, ("beta", 0): 2, ("second", 0): 2}


def grouped(w, x):
    return conv(jax.nn.relu(conv(jax.nn.relu(conv(x, w["in"])), w["up"], groups=4)), w["out"])


def shuffled(w, x):
    n, h, width, _ = x.shape
    x = jax.nn.relu(conv(x, w["up"])).reshape(n, h, width, 4, 2, 2)
    return conv(x.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * width, 4), w["out"])


def gated(w, x):
    value, gate = jnp.split(x @ w["up"], 2, axis=-1)
    return (value * jax.nn.sigmoid(gate)) @ w["out"]


MANY = {
    "grouped": (grouped, {"in": (1, 1, 3, 8), "up": (3, 3, 2, 16), "out": (1, 1, 16, 3)}),
    "shuffled": (shuffled, {"up": (3, 3, 3, 16), "out": (3, 3, 4, 3)}),
    "gated": (gated, {"up": (3, 16), "out": (8, 2)}),
}


@pytest.mark.parametrize("name", MANY)
def test_a_channel_that_is_several_filters_has_one_score(name):
    function, shapes = MANY[name]
    weights = random_weights(**shapes)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    found = channels.find_channels(function, weights, x)
    units = describe(found).units
    (of_up,) = (unit for unit, own in units.items() if any(n == "up" for n, _ in own.kernels))
    filters = units[of_up].kernels["up", len(shapes["up"]) - 1]
    assert filters.shape == (16 // filters.shape[1], filters.shape[1])
    axes = tuple(range(len(shapes["up"]) - 1))
    squares = np.square(weights["up"]).sum(axes)[filters].sum(1)
    if name == "grouped":  # with the filters that it reads
        squares += np.square(weights["in"]).sum((0, 1, 2))[units[of_up].kernels["in", 3]].sum(1)
    score = pruning.channel_scores(weights, units)[of_up]
    np.testing.assert_allclose(score, np.sqrt(squares), rtol=1e-6)
    assert half_removed(function, weights, x)["up", len(shapes["up"]) - 1] == 8


def test_a_norm_without_scale_dies_by_its_mean():
    def function(w, x):
        y = (x @ w["a"] - w["mean"]) * jax.lax.rsqrt(w["var"] + 1e-5)
        return jax.nn.relu(y) @ w["out"]

    weights = random_weights(a=(3, 4), mean=(4,), var=(4,), out=(4, 2))
    weights["var"] = jnp.abs(weights["var"])
    found = channels.find_channels(function, weights, jnp.ones((1, 3)))
    dying = describe(found).units["a"].dying
    assert dying.keys() == {("a", 1), ("mean", 0)}
    assert half_removed(function, weights, jnp.ones((1, 3)))["var", 0] == 2


def test_an_array_loses_what_dies_on_either_of_its_axes():
    units = {"a": {("w", 0): np.arange(2)[:, None]}, "b": {("w", 1): np.arange(3)[:, None]}}
    keep = {"a": jnp.array([True, False]), "b": jnp.array([True, True, False])}
    left = channel_masks({"w": jnp.ones((2, 3))}, units, keep)["w"]
    np.testing.assert_array_equal(left, [[True, True, False], [False, False, False]])


def test_what_is_not_selected_stays_whole():
    def function(w, x):
        return jax.nn.relu(x @ w["a"] + x @ w["b"]) @ w["c"]

    weights = random_weights(a=(3, 6), b=(3, 6), c=(6, 2))
    found = channels.find_channels(function, weights, jnp.ones((1, 3)))
    assert describe(found).units.keys() == {"a"} or describe(found).units.keys() == {"b"}
    chosen = describe(found, "^a$")
    assert chosen.units == {}
    assert Whole(6, "b put it out, and are not selected") in chosen.staying.values()


def test_all_compete():
    def function(w, x):
        return jax.nn.relu(jax.nn.relu(x @ w["a"]) @ w["b"]) @ w["c"]

    weights = random_weights(a=(3, 6), b=(6, 8), c=(8, 2))
    weights["a"] = weights["a"] * 100
    removed = half_removed(function, weights, jnp.ones((1, 3)), scope="global")
    assert removed == {("b", 1): 7, ("c", 0): 7}  # the best of each always stays


def test_the_description_of_others_is_refused():
    weights = random_weights(a=(3, 6), b=(6, 2))
    found = channels.find_channels(lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"], weights, jnp.ones(3))
    with pytest.raises(UsageError, match="channels tell of a, which is not among .*within"):
        pruning.prepare({"other": jnp.ones(3)}, channels=found)
    with pytest.raises(UsageError, match="granularity is 'weight'; it must be 'filter' with"):
        pruning.prepare(weights, channels=found, granularity="weight")
    with pytest.raises(UsageError, match="scope is 'local'; it must be one of group, global"):
        pruning.prepare(weights, channels=found, scope="local")
    with pytest.raises(
        UsageError, match="scores of b, but the channels are called a; make them by"
    ):
        pruning.prepare(weights, channels=found, criterion={"b": jnp.ones(2)})
    with pytest.raises(UsageError, match="'norm_scale' goes by names"):
        pruning.prepare(weights, channels=found, criterion="norm_scale")
