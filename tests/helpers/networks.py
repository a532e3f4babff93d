"""The bundled networks for tests: made, fed with random images, filled with random variables."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bbo.models.create import create_model
from bbo.settings.sections import ModelConfig

SIZES = {"vgg": 32}


def build(name, *, dtype=jnp.float32, axis_name=None, **settings):
    config = ModelConfig(model=name, **settings)
    return create_model(config, num_classes=10, dtype=dtype, axis_name=axis_name)


def image_shape(name, count=2):
    size = SIZES.get(name[:3], 8)
    return (count, size, size, 3)


def random_images(name, count=2):
    images = np.random.default_rng(1).standard_normal(image_shape(name, count))
    return jnp.asarray(images, jnp.float32)


def draw(model, name):
    """Random variables of the model."""
    return fill(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(image_shape(name))))


def fill(like):
    """Random variables, by numpy: compiling the initialisers takes longer than a test."""
    generator = np.random.default_rng(0)

    def leaf(path, like):
        if len(like.shape) > 1:
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return jnp.asarray(generator.standard_normal(like.shape) * scale, like.dtype)
        return jnp.full(like.shape, path[-1].key in ("scale", "var"), like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def shapes(model, name):
    """Flat name -> shape and dtype of the parameters; takes no memory."""
    images = jnp.zeros(image_shape(name))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return traverse_util.flatten_dict(variables["params"], sep="/")


def count_parameters(model, name):
    return sum(leaf.size for leaf in shapes(model, name).values())
