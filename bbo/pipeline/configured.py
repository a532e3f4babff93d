"""What a configuration asks for: the network, batches of images, options of the compiler."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh

from bbo.data.augmentation import augment, normalize
from bbo.models.create import create_model
from bbo.settings.config import ExperimentConfig
from bbo.types import Array, Batch, PyTree, Rng


class Images(NamedTuple):
    """A split on the devices, with the key of the randomness applied to it."""

    image: Array
    """uint8 [n, h * w * c]; of more axes a TPU would lay out the whole split anew in each step."""
    label: Array
    """int32 [n]."""
    rng: Rng


def model_of(config: ExperimentConfig, **options: Any) -> nn.Module:
    """The network of a configuration; options are those of ``create_model``."""
    return create_model(
        config.model,
        num_classes=config.data.info.num_classes,
        dtype=jnp.dtype(config.train.dtype),
        **options,
    )


def compiler_options(
    config: ExperimentConfig, mesh: Mesh, program: str = ""
) -> dict[str, Any] | None:
    """For CPUs, some programs do without the YNN fusions.

    In jaxlib 0.12 they give NaN in bfloat16 now and then; in jaxlib 0.10 least squares of some
    shapes cannot run ("Instruction with unsupported layout in YNN fusion").
    """
    fails = config.train.dtype == "bfloat16" or program == "mend"
    if fails and mesh.devices.flat[0].platform == "cpu":
        return {"xla_cpu_experimental_ynn_fusion_type": ""}
    return None


def batch_of(
    config: ExperimentConfig, images: Images, choice: PyTree, augment_rng: Rng | None = None
) -> Batch:
    """Chosen images, augmented if there is a key, and normalised."""
    info = config.data.info
    pixels = images.image[choice["row"]].reshape(-1, *info.image_shape)
    index = choice["index"]
    if augment_rng is not None and config.data.augment:
        pixels = augment(augment_rng, pixels, index=index, padding=info.padding, flip=info.flip)
    return {
        "image": normalize(pixels, info.mean, info.std, jnp.dtype(config.train.dtype)),
        "label": images.label[choice["row"]],
        "index": index,
    }
