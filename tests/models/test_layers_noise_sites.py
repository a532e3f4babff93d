"""Where activation noise acts in the networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import build, draw, fill, random_images

from bbo.models.layers import Layers
from bbo.models.resnet import BasicBlock, BottleneckBlock
from bbo.models.wide_resnet import WideBlock


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("small_cnn", 4),
        ("vgg11", 8),
        ("vgg16", 13),
        ("thin_resnet18", 12),
        ("thin_resnet34", 26),
        ("resnet18", 16),
        ("resnet50", 48),
        ("wrn10_2", 3),
        ("wrn28_10", 12),
    ],
)
def test_number_of_noise_sites(name, sites):
    model, images = build(name), random_images(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    seen = []

    def record(key, x):
        seen.append(x.shape)
        return x

    def apply(variables, key, *, noise, **options):
        rngs = {"noise": key}
        return model.apply(variables, images, noise=noise, mutable=True, rngs=rngs, **options)

    jax.eval_shape(lambda v, k: apply(v, k, noise=record, train=True), variables, jax.random.key(2))
    assert len(seen) == sites
    jax.eval_shape(
        lambda v, k: apply(v, k, noise=record, train=False), variables, jax.random.key(2)
    )
    jax.eval_shape(lambda v, k: apply(v, k, noise=None, train=True), variables, jax.random.key(2))
    assert len(seen) == sites


def test_each_noise_site_has_its_own_key_and_acts():
    model, images = build("thin_resnet18", width=1 / 8), random_images("thin_resnet18")
    variables, keys = draw(model, "thin_resnet18"), []

    def half(key, x):
        keys.append(jax.random.key_data(key))
        return x * jnp.asarray(0.5, x.dtype)

    def run(noise):
        rngs = {"noise": jax.random.key(2)}
        logits, _ = model.apply(
            variables, images, train=True, noise=noise, mutable=["batch_stats"], rngs=rngs
        )
        return logits, jnp.stack(keys) if keys else None

    plain, _ = jax.jit(lambda: run(None))()
    noisy, drawn = jax.jit(lambda: run(half))()
    assert len(np.unique(drawn, axis=0)) == len(drawn) == 12
    assert not np.allclose(plain, noisy)


@pytest.mark.parametrize(
    ("block", "rectified"),
    [(BasicBlock, [True, False]), (BottleneckBlock, [True, True, False]), (WideBlock, [False])],
)
def test_noise_acts_after_relu_or_before_the_sum(block, rectified):
    images, seen = random_images("small_cnn"), []
    module = block(layers=Layers(), features=4, stride=2)
    init = functools.partial(module.init, train=False, noise=None)
    variables = fill(jax.eval_shape(init, jax.random.key(0), images))

    def record(key, x):
        seen.append((x >= 0).all())
        return x

    @jax.jit
    def run(key):
        options = {"mutable": ["batch_stats"], "rngs": {"noise": key}}
        module.apply(variables, images, train=True, noise=record, **options)
        return jnp.stack(seen)

    assert run(jax.random.key(0)).tolist() == rectified
