"""The network without noise beside the noisy one: in some steps, or in each, by formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from networks import draw

from bbo import noise
from bbo.training.step import Clean, Recipe, TrainState, noisy_forward, train_step
from bbo.types import UsageError


class Network(nn.Module):
    """One convolution: the steps are what is looked at."""

    @nn.compact
    def __call__(self, x, *, train=False, noise=None):
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(not train, name="conv1_norm")(x))
        return nn.Dense(10, name="head")(x.mean((1, 2)))


MODEL = Network()
VARIABLES = draw(MODEL, "small_cnn")
NOISE = noise.dropconnect(rate=0.5)
SGD = optax.sgd(1.0)
BATCH = {
    "image": jax.random.normal(jax.random.key(0), (6, 8, 8, 3)),
    "label": jnp.arange(6, dtype=jnp.int32),
    "index": jnp.arange(6, dtype=jnp.int32),
}
KEY = jax.random.key(1)


def state_at(step):
    params = VARIABLES["params"]
    return TrainState(jnp.int32(step), params, VARIABLES["batch_stats"], SGD.init(params))


NEVER = Clean()


@functools.partial(jax.jit, static_argnames=("clean", "noisy"))
def after(step, clean=NEVER, noisy=True):
    recipe = Recipe(MODEL, NOISE if noisy else noise.none(), SGD, clean=clean)
    return train_step(state_at(step), BATCH, KEY, recipe)


def slopes(state):
    """Of plain SGD with learning rate 1."""
    return jax.tree.map(lambda old, new: old - new, VARIABLES["params"], state.params)


def assert_alike(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_a_step_is_either_clean_or_noisy():
    clean = Clean(share=0.4)
    kinds = []
    for step in range(30):
        (found, _), (noisy, _) = after(step, clean), after(step)
        plain, _ = after(step, noisy=False)
        moved = not np.array_equal(
            found.batch_stats["conv1_norm"]["mean"], VARIABLES["batch_stats"]["conv1_norm"]["mean"]
        )
        assert_alike(found.params, plain.params if moved else noisy.params, rtol=1e-5, atol=1e-6)
        stats = plain.batch_stats if moved else VARIABLES["batch_stats"]
        assert_alike(found.batch_stats, stats, rtol=1e-5, atol=1e-6)
        kinds.append(moved)
    assert 4 <= sum(kinds) <= 20  # 12 are expected, 4 sigma are 10.7


def test_each_step_learns_from_both():
    (found, metrics), (noisy, told) = after(3, Clean(0.25, each_step=True)), after(3)
    plain, said = after(3, noisy=False)
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, slopes(plain), slopes(noisy))
    assert_alike(slopes(found), expected, rtol=1e-4, atol=1e-6)
    assert_alike(found.batch_stats, plain.batch_stats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        metrics["loss"], 0.25 * said["loss"] + 0.75 * told["loss"], rtol=1e-5
    )
    assert metrics["accuracy"] == said["accuracy"]


def forward(params, *, noisy):
    regulariser = NOISE if noisy else noise.none()
    rng = jax.random.fold_in(KEY, 3)
    return noisy_forward(MODEL, regulariser, VARIABLES | {"params": params}, BATCH, rng)[0]


@pytest.mark.parametrize("each_step", [True, False])
def test_distillation_teaches_what_the_clean_network_says(each_step):
    share, weight = 0.5, 0.75
    clean = Clean(share, each_step=each_step, distill=weight)

    @jax.jit
    @jax.grad
    def noisy_slopes(params):
        logits = jax.nn.log_softmax(forward(params, noisy=True))
        said = jax.nn.softmax(forward(VARIABLES["params"], noisy=False))
        truth = jax.nn.one_hot(BATCH["label"], 10)
        return -jnp.mean(jnp.sum(((1 - weight) * truth + weight * said) * logits, axis=-1))

    noisy = noisy_slopes(VARIABLES["params"])
    plain = slopes(after(3, noisy=False)[0])
    found = slopes(after(3, clean)[0])
    mixed = jax.tree.map(lambda a, b: share * a + (1 - share) * b, plain, noisy)
    assert_alike(found, mixed if each_step else noisy, rtol=1e-4, atol=1e-6)


def test_a_clean_step_is_told_nothing_else():
    clean = Clean(0.5, distill=0.75)
    kinds = [
        np.allclose(
            jax.tree.leaves(after(step, clean)[0].params)[-1],
            jax.tree.leaves(after(step, noisy=False)[0].params)[-1],
            atol=1e-6,
        )
        for step in range(12)
    ]
    assert 2 <= sum(kinds) <= 10


def test_ascent_takes_the_noisy_gradient_further_up():
    share, length = 0.5, 0.1
    found, _ = after(3, Clean(share, each_step=True, ascent=length))
    plain = slopes(after(3, noisy=False)[0])
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(plain)))
    point = jax.tree.map(lambda w, g: w + length / norm * g, VARIABLES["params"], plain)

    @jax.jit
    @jax.grad
    def noisy_slopes(params):
        logits = forward(params, noisy=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["label"]).mean()

    expected = jax.tree.map(lambda a, b: share * a + (1 - share) * b, plain, noisy_slopes(point))
    assert_alike(slopes(found), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pause", [True, False])
def test_a_paused_regulariser(pause):
    x, key = jnp.ones((4, 3)), jax.random.key(0)
    both = noise.dropout(rate=0.5)._replace(weights=noise.dropconnect(rate=0.5, on="k").weights)
    paused = noise.paused(both, jnp.asarray(pause))
    loud = both.activations(key, x, index=jnp.arange(4))
    np.testing.assert_array_equal(
        paused.activations(key, x, index=jnp.arange(4)), x if pause else loud
    )
    noisy = both.weights(key, {"k": x})["k"]
    np.testing.assert_array_equal(paused.weights(key, {"k": x})["k"], x if pause else noisy)


def test_a_network_of_another_size_is_not_paused():
    removing = noise.Regulariser(network=lambda variables, images: images)
    with pytest.raises(UsageError, match="cannot be paused"):
        noise.paused(removing, jnp.asarray(True))
