"""Running statistics of the networks: momentum, and synchronisation over a mapped axis."""

import functools

import jax
import numpy as np
from flax import traverse_util
from jax import lax
from networks import build, draw, random_images


def statistics(model, variables, images):
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    _, updated = jax.jit(train)(variables, images)
    return traverse_util.flatten_dict(updated["batch_stats"], sep="/")


def test_running_statistics_move_by_one_minus_momentum():
    images = random_images("small_cnn", 8)
    variables = draw(build("small_cnn"), "small_cnn")
    kernel = variables["params"]["conv1"]["kernel"]
    y = lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    for momentum in (0.9, 0.25):
        new = statistics(build("small_cnn", norm_momentum=momentum), variables, images)
        close = {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(new["conv1_norm/mean"], (1 - momentum) * mean, **close)
        expected = momentum + (1 - momentum) * var
        np.testing.assert_allclose(new["conv1_norm/var"], expected, **close)


def test_final_norm_momentum_is_of_the_last_norm_alone():
    images = random_images("wrn10_1", 4)
    variables = draw(build("wrn10_1"), "wrn10_1")
    slow = statistics(build("wrn10_1"), variables, images)
    fast = statistics(build("wrn10_1", final_norm_momentum=0.1), variables, images)
    for key, value in slow.items():
        old = 1.0 if key.endswith("var") else 0.0
        factor = 9.0 if key.startswith("final_norm") else 1.0
        np.testing.assert_allclose(fast[key] - old, factor * (value - old), rtol=1e-4, atol=1e-6)


def test_axis_name_synchronises_statistics():
    images = random_images("small_cnn", 8)
    model = build("small_cnn", axis_name="devices")
    variables = draw(model, "small_cnn")

    def run(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    whole, whole_stats = jax.jit(lambda x: run(build("small_cnn"), x))(images)
    synchronised = jax.jit(jax.vmap(lambda x: run(model, x), axis_name="devices"))
    halves, stats = synchronised(images.reshape(2, 4, *images.shape[1:]))
    np.testing.assert_allclose(halves.reshape(8, 10), whole, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(whole_stats), strict=True):
        np.testing.assert_array_equal(mine[0], mine[1])
        np.testing.assert_allclose(mine[0], theirs, rtol=1e-4, atol=1e-6)
    # Without a mapped axis the same model evaluates.
    assert jax.eval_shape(model.apply, variables, images).shape == (8, 10)
