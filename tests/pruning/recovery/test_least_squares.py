"""Refitted weights are the least-squares solution, and what was removed stays removed."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import linen as nn

from bbo import pruning, trees
from bbo.pruning.recovery import least_squares, solver
from bbo.types import UsageError

RIDGE = 1e-2
GEOMETRY = {
    "first": {"strides": (2, 2), "padding": ((1, 0), (0, 2)), "dilation": (1, 1)},
    "second": {"strides": (1, 1), "padding": ((0, 1), (2, 2)), "dilation": (1, 2)},
}
"""Of the convolutions of ``Small``."""


class Small(nn.Module):
    """A strided convolution, a dilated one behind which is a norm, and a dense layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        first = {key: GEOMETRY["first"][key] for key in ("strides", "padding")}
        dtype = {"param_dtype": x.dtype}
        x = nn.relu(nn.Conv(5, (3, 3), name="first", **first, **dtype)(x))
        second = {"kernel_dilation": (1, 2), "use_bias": False, "name": "second"}
        x = nn.Conv(4, (2, 3), **second, **dtype)(x)
        norm = {"force_float32_reductions": False, "name": "second_norm"}
        x = nn.BatchNorm(not train, **norm, **dtype)(x)
        return nn.Dense(3, name="head", **dtype)(nn.relu(x).mean((1, 2)))


@functools.cache
def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def fill(model, images):
    """Variables of the model in the dtype of the images; random, no entry zero."""
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    leaves, tree = jax.tree.flatten(like["params"])
    drawn = [jnp.asarray(draw(leaf.shape, i), images.dtype) for i, leaf in enumerate(leaves)]
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), like["batch_stats"])
    return {"params": jax.tree.unflatten(tree, drawn), "batch_stats": stats}


def zeroed(variables, holes):
    """The variables, with zeros at ``{name: index}``."""
    params = trees.map_named(
        lambda name, x: x.at[holes[name]].set(0) if name in holes else x, variables["params"]
    )
    return variables | {"params": params}


def matrix(layer):
    """A layer's parameters as [features, out], the constant below the kernel."""
    rows = np.asarray(layer["kernel"]).reshape(-1, layer["kernel"].shape[-1])
    return np.concatenate([rows, np.asarray(layer["bias"])[None]])


def read(x, window, strides, padding, dilation):
    """Patches [n * h' * w', kh * kw * in], by loops."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    reach = [(size - 1) * gap + 1 for size, gap in zip(window, dilation, strict=True)]
    starts = [
        range(0, size - far + 1, stride)
        for size, far, stride in zip(x.shape[1:3], reach, strides, strict=True)
    ]
    return np.array(
        [
            image[i : i + reach[0] : dilation[0], j : j + reach[1] : dilation[1]].ravel()
            for image in x
            for i in starts[0]
            for j in starts[1]
        ]
    )


def closest(inputs, wanted, rows, kept):
    """Each column by itself: ridge regression of what is missing, on the entries kept."""
    level, fitted = RIDGE * np.mean(np.square(inputs)), rows.copy()
    for column in range(rows.shape[1]):
        a = inputs[:, kept[:, column]]
        missing = wanted[:, column] - inputs @ rows[:, column]
        gram = a.T @ a / len(a) + level * np.eye(a.shape[1])
        fitted[kept[:, column], column] += np.linalg.solve(gram, a.T @ missing / len(a))
    return fitted


def refitted_by_hand(old, new, images):
    """The parameters of ``Small`` as matrices, in numpy; of the second, the constant is free."""
    free = {"bias": np.zeros(4)}
    old, new = ({**params, "second": params["second"] | free} for params in (old, new))
    found, inputs = {}, [images, images]  # of the network before pruning, and of the refitted one
    for name in ("first", "second", "head"):
        if name in GEOMETRY:
            window = old[name]["kernel"].shape[:2]
            inputs = [read(x, window, **GEOMETRY[name]) for x in inputs]
        inputs = [np.concatenate([x, np.ones((len(x), 1))], axis=1) for x in inputs]
        kept = matrix(new[name]) != 0
        kept[-1] |= name == "second"
        wanted = inputs[0] @ matrix(old[name])
        found[name] = closest(inputs[1], wanted, matrix(new[name]), kept)
        inputs = [wanted, inputs[1] @ found[name]]
        if name == "second":
            inputs = [(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in inputs]
            scale, shift = (np.asarray(old["second_norm"][leaf]) for leaf in ("scale", "bias"))
            inputs = [x * scale + shift for x in inputs]
        inputs = [np.maximum(x, 0).reshape(len(images), 3, 4, -1) for x in inputs if name != "head"]
        if name == "second":
            inputs = [x.mean((1, 2)) for x in inputs]
    return found


HOLES = {
    "filters": {"first/kernel": np.s_[..., 1::2], "second/kernel": np.s_[..., 2]},
    "a filter and its bias": {"first/kernel": np.s_[..., 0], "first/bias": 0},
    "weights": {"first/kernel": np.s_[0, 1, :, ::2], "second/kernel": np.s_[:, 1, 1:3, 1]},
}


@pytest.mark.parametrize("holes", HOLES.values(), ids=HOLES.keys())
def test_each_layer_is_the_closest_to_its_output_before_pruning(holes, monkeypatch):
    with jax.enable_x64(True):
        images = jnp.asarray(draw((12, 6, 7, 2), 9))
        model = Small()
        dense = fill(model, images)
        pruned = zeroed(dense, holes)
        refit = functools.partial(least_squares.refit, norm=pruning.norm_of, ridge=RIDGE)
        monkeypatch.setattr(solver, "CHUNK", 5)  # 12 images: chunks of 4
        monkeypatch.setattr(solver, "TOLERANCE", 1e-12)
        mended = jax.jit(functools.partial(refit, model))(dense, pruned, images)
        by_hand = refitted_by_hand(dense["params"], pruned["params"], np.asarray(images))
    assert mended["batch_stats"] is not None
    for name, expected in by_hand.items():
        layer = mended["params"][name]
        found = matrix(layer if "bias" in layer else layer | {"bias": expected[-1]})
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9, err_msg=name)
    for name in ("scale", "bias"):
        norm = mended["params"]["second_norm"]
        np.testing.assert_array_equal(norm[name], dense["params"]["second_norm"][name])
    check_removed_stays_removed(pruned, mended)


def check_removed_stays_removed(pruned, mended):
    found = trees.flatten(mended["params"])
    for name, before in trees.flatten(pruned["params"]).items():
        assert found[name].dtype == before.dtype and found[name].shape == before.shape
        assert not np.asarray(found[name])[np.asarray(before) == 0].any(), name
        assert np.isfinite(found[name]).all(), name


def test_a_filter_that_another_repeats_is_not_missed():
    images = jnp.asarray(draw((16, 6, 7, 2), 9), jnp.float32)
    model = Small()
    dense = fill(model, images)
    first = {
        name: leaf.at[..., 1].set(leaf[..., 0]) for name, leaf in dense["params"]["first"].items()
    }
    dense = dense | {"params": dense["params"] | {"first": first}}
    pruned = zeroed(dense, {"first/kernel": np.s_[..., 1], "first/bias": 1})
    mended = jax.jit(functools.partial(least_squares.refit, model, ridge=1e-6))(
        dense, pruned, images
    )
    before, after, without = (
        np.asarray(model.apply(variables, images)) for variables in (dense, mended, pruned)
    )
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert np.abs(without - before).max() > 0.1


@functools.cache
def prepared(name):
    """A small network of the family, its variables, images, and the compiled refit."""
    model = networks.build(name, width=1 / 16, conv_bias=name == "wrn10_1")
    images = networks.random_images(name, count=8)
    filled = networks.fill(jax.eval_shape(model.init, jax.random.key(0), images))
    # A bias that is zero would count as removed.
    shifted = jax.tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, filled["params"])
    refit = functools.partial(least_squares.refit, model, norm=pruning.norm_of)
    return model, filled | {"params": shifted}, images, jax.jit(refit)


FAMILIES = [
    "small_cnn",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "wrn10_1")),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_that_has_lost_nothing_stays_as_it_is(name):
    _, dense, images, refit = prepared(name)
    mended = trees.flatten(refit(dense, dense, images)["params"])
    for leaf, before in trees.flatten(dense["params"]).items():
        np.testing.assert_allclose(mended[leaf], before, atol=2e-3, err_msg=leaf)


PRUNED = [("filter", "clean"), ("filter", "published"), ("weight", "clean")]


@pytest.mark.parametrize(("granularity", "meaning"), PRUNED)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_removed_stays_removed(name, granularity, meaning):
    model, dense, images, refit = prepared(name)
    scored = pruning.scores(dense["params"], criterion="l2", granularity=granularity)
    counts = pruning.drop_counts(scored, 0.5)
    masks = pruning.masks(dense["params"], pruning.ranks(scored), counts, meaning=meaning)
    pruned = dense | {"params": pruning.apply_masks(dense["params"], masks)}
    mended = refit(dense, pruned, images)
    check_removed_stays_removed(pruned, mended)
    logits = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"])[0])
    target, before, after = (np.asarray(logits(v)) for v in (dense, pruned, mended))
    assert np.square(after - target).mean() < 0.5 * np.square(before - target).mean()


@pytest.mark.parametrize("kept_columns", [True, False])
def test_solve_equals_each_column_by_itself(kept_columns):
    inputs, wanted = draw((40, 9), 1), draw((40, 4), 2)
    kept = draw((9, 4), 3) > -0.5
    if kept_columns:
        kept = np.broadcast_to(kept[:1], (9, 4))
    found = solver.solve(
        jnp.asarray(inputs.T @ inputs / 40, jnp.float32),
        jnp.asarray(inputs.T @ wanted / 40, jnp.float32),
        jnp.asarray(kept),
        RIDGE,
    )
    expected = closest(inputs, wanted, np.zeros((9, 4)), kept)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_solve_where_nothing_is_read():
    found = solver.solve(jnp.zeros((3, 3)), jnp.zeros((3, 2)), jnp.ones((3, 2), bool), RIDGE)
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


class Grouped(nn.Module):
    """Two convolutions, of which the first is grouped."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x)
        return nn.Conv(4, (1, 1), name="plain")(nn.relu(x))


def test_grouped_convolutions_are_left_alone():
    images = jnp.asarray(draw((4, 5, 5, 2), 9), jnp.float32)
    dense = {"params": fill_params(Grouped(), images)}
    pruned = zeroed(dense, {"grouped/kernel": np.s_[..., 1]})
    mended = least_squares.refit(Grouped(), dense, pruned, images)["params"]
    np.testing.assert_array_equal(
        mended["grouped"]["kernel"], pruned["params"]["grouped"]["kernel"]
    )
    assert not np.allclose(mended["plain"]["kernel"], pruned["params"]["plain"]["kernel"])


def fill_params(model, images):
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape), leaf.dtype), like)


class Twice(nn.Module):
    """One layer, called twice."""

    @nn.compact
    def __call__(self, x, *, train=False):
        layer = nn.Dense(2, name="shared")
        return layer(layer(x))


def test_a_layer_called_twice_is_an_error():
    x = jnp.ones((3, 2))
    variables = {"params": fill_params(Twice(), x)}
    with pytest.raises(UsageError, match="layer shared is called more than once"):
        least_squares.refit(Twice(), variables, variables, x)
