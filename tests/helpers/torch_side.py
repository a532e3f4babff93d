"""Networks of ours and of PyTorch with the same variables; skips where torch is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.models.create import create_model
from bbo.settings.config import ExperimentConfig, override

torch = pytest.importorskip("torch")

from experiments.benchmark.pytorch import networks as torch_networks  # noqa: E402


def settings(model, **values):
    values = {"dataset": "cifar10", "width": 0.125, "noise": "none"} | values
    return override(ExperimentConfig(), model=model, **values)


def model_of(config):
    return create_model(config.model, num_classes=config.data.info.num_classes)


def shapes_of(config):
    images = jnp.zeros((2, *config.data.info.image_shape))
    return jax.eval_shape(model_of(config).init, jax.random.key(0), images)


def draw(config):
    """Random variables, all of them different from what a layer starts with."""
    generator = np.random.default_rng(0)

    def leaf(path, like):
        if len(like.shape) > 1:
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return jnp.asarray(generator.standard_normal(like.shape) * scale, jnp.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.1, 0.1)
        return jnp.asarray(generator.uniform(low, high, like.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes_of(config))


def draw_images(config, count=4):
    generator = np.random.default_rng(1)
    info = config.data.info
    images = generator.integers(0, 256, (count, *info.image_shape), np.uint8)
    return images, generator.integers(0, info.num_classes, count).astype(np.int32)


def loaded(config, variables, dtype=torch.float32):
    network = torch_networks.create_network(config).to(dtype)
    torch_networks.load_variables(network, variables)
    return network


def relative(ours, theirs):
    """The distance of two arrays in the length of ours."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(ours)


def to_torch(array):
    return torch.tensor(np.ascontiguousarray(np.transpose(array, (3, 2, 0, 1))))
