"""The bundled networks: Linen modules from images [n, h, w, c] to logits [n, classes].

A convolution ``NAME`` has its kernel at ``.../NAME/kernel``; the BatchNorm that alone reads its
output, if there is one, is ``.../NAME_norm``. No other BatchNorm is named so. The dense layer is
``head``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bbo import trees
from bbo.models.layers import Layers
from bbo.models.resnet import FULL_CHANNELS, FULL_STAGES, THIN_CHANNELS, THIN_STAGES, ResNet
from bbo.models.small_cnn import SmallCNN
from bbo.models.vgg import SMALL_CHANNELS, SMALL_STAGES, STAGES, VGG
from bbo.models.wide_resnet import WideResNet
from bbo.settings.catalog import parse_model
from bbo.settings.sections import ModelConfig
from bbo.types import Params


def create_model(
    config: ModelConfig,
    *,
    num_classes: int,
    dtype: Any = jnp.float32,
    axis_name: str | tuple[str, ...] | None = None,
    kept: Mapping[str, int] | None = None,
) -> nn.Module:
    """The network that ``config`` names.

    Call it as ``model.apply({"params": ..., "batch_stats": ...}, images, train=..., noise=...)``:
    ``train`` (default False) takes BatchNorm statistics from the batch, and then needs
    ``mutable=["batch_stats"]``; ``noise(key, activations)`` (default None) disturbs activations
    while training, with keys from ``rngs={"noise": key}``.

    Args:
      config: the name of the network and the settings of its layers.
      num_classes: the number of logits.
      dtype: of the computation. Parameters, statistics and logits are float32, or float64 when
        this is.
      axis_name: the axis of ``pmap`` or ``vmap`` over which BatchNorm takes its statistics when
        training; under ``jit`` over a mesh they are of the whole batch by themselves.
      kept: the number of output channels of every convolution, see ``kept_channels``, of a network
        that has lost some.

    >>> import jax
    >>> model = create_model(ModelConfig(model="small_cnn"), num_classes=10)
    >>> images = jnp.zeros((2, 8, 8, 1))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> jax.eval_shape(model.apply, variables, images).shape
    (2, 10)
    """
    layers = Layers(
        width=config.width,
        conv_bias=config.conv_bias,
        norm_momentum=config.norm_momentum,
        dtype=dtype,
        axis_name=axis_name,
        kept=tuple(sorted((kept or {}).items())),
    )
    family, numbers = parse_model(config.model)
    return BUILDERS[family](layers, num_classes, config, *numbers)


def _resnet(layers: Layers, num_classes: int, config: ModelConfig, depth: int) -> nn.Module:
    del config
    stages = FULL_STAGES[depth]
    return ResNet(layers, num_classes, stages, FULL_CHANNELS, bottleneck=depth == 50)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": lambda layers, num_classes, config: SmallCNN(layers, num_classes),
    "vgg": lambda layers, num_classes, config, depth: VGG(layers, num_classes, STAGES[depth]),
    "small_vgg": lambda layers, num_classes, config: VGG(
        layers, num_classes, SMALL_STAGES, SMALL_CHANNELS
    ),
    "thin_resnet": lambda layers, num_classes, config, depth: ResNet(
        layers, num_classes, THIN_STAGES[depth], THIN_CHANNELS
    ),
    "resnet": _resnet,
    "wrn": lambda layers, num_classes, config, depth, widen: WideResNet(
        layers, num_classes, depth, widen, config.final_norm_momentum
    ),
}
"""What builds each family of ``catalog.MODELS``, of ``(layers, num_classes, config, *numbers)``."""


def kept_channels(params: Params) -> dict[str, int]:
    """The output channels of every convolution, by name: what ``create_model`` rebuilds it from.

    >>> kept_channels({"stem": {"kernel": jnp.zeros((3, 3, 3, 7))}, "head": {"bias": jnp.zeros(2)}})
    {'stem': 7}
    """
    leaves = trees.flatten(params)
    return {
        name.removesuffix("/kernel"): leaf.shape[-1]
        for name, leaf in leaves.items()
        if name.endswith("/kernel") and leaf.ndim >= 4
    }
