"""The networks of ``bbo.models`` in PyTorch, by the same names.

Images are [n, c, h, w] here, kernels [out, in, kh, kw]. What Flax calls ``stem_norm/scale`` is
``stem_norm.weight``. Differences: running variances are with Bessel's correction, as PyTorch has
them, and the random numbers are its own.
"""

import dataclasses
import math
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bbo import trees
from bbo.models import small_cnn, vgg
from bbo.models.resnet import FULL_CHANNELS, FULL_STAGES, THIN_CHANNELS, THIN_STAGES
from bbo.models.vgg import STAGES
from bbo.models.wide_resnet import CHANNELS
from bbo.settings.config import ExperimentConfig
from bbo.types import PyTree, require
from experiments.benchmark.pytorch.noise import NoisyConv2d

NOISES = ("none", "dropout", "batch_bridgeout")
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Flax's name of a leaf -> PyTorch's."""
Stages = list[tuple[int, int]]
"""The number of convolutions or blocks of each stage, and their channels before the width."""
LAYOUTS = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
"""The axes of Flax's array in PyTorch's order, by their number."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a network, as its configuration has them."""

    config: ExperimentConfig

    @property
    def colours(self) -> int:
        """Channels of an image."""
        return self.config.data.info.image_shape[-1]

    def channels(self, count: int) -> int:
        """``count`` channels at this width; at least 1."""
        return max(1, round(count * self.config.model.width))

    def conv(self, fan_in: int, fan_out: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
        """A convolution with ``size // 2`` zeros around; noisy if it is larger than 1x1."""
        noisy = self.config.noise.noise == "batch_bridgeout" and size > 1
        kind, bias = NoisyConv2d if noisy else nn.Conv2d, self.config.model.conv_bias
        layer = kind(fan_in, fan_out, size, stride, padding=size // 2, bias=bias)
        if isinstance(layer, NoisyConv2d):
            layer.noise = self.config.noise
        nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def norm(self, channels: int, *, momentum: float | None = None) -> nn.BatchNorm2d:
        """BatchNorm; ``momentum`` is the share that is kept, as in Flax."""
        kept = self.config.model.norm_momentum if momentum is None else momentum
        return nn.BatchNorm2d(channels, momentum=1 - kept)

    def site(self) -> nn.Module:
        """Where dropout acts, if there is any."""
        noise = self.config.noise
        return nn.Dropout(noise.rate) if noise.noise == "dropout" else nn.Identity()

    def with_head(self, named: dict[str, nn.Module], features: int) -> nn.Sequential:
        """Layers, then the mean over the image and a dense layer."""
        classes = self.config.data.info.num_classes
        end = {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        return nn.Sequential(OrderedDict(named | end | {"head": nn.Linear(features, classes)}))


class BasicBlock(nn.Module):
    """``bbo.models.resnet.BasicBlock``."""

    def __init__(self, layers: Layers, fan_in: int, features: int, stride: int):
        super().__init__()
        self.conv1 = layers.conv(fan_in, features, stride=stride)
        self.conv1_norm = layers.norm(features)
        self.conv2 = layers.conv(features, features)
        self.conv2_norm = layers.norm(features)
        self.site = layers.site()
        _add_shortcut(self, layers, fan_in, features, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] to [n, features, h / stride, w / stride]."""
        y = self.site(functional.relu_(self.conv1_norm(self.conv1(x))))
        y = self.site(self.conv2_norm(self.conv2(y)))
        return functional.relu_(y + self.shortcut_norm(self.shortcut(x)))


class BottleneckBlock(nn.Module):
    """``bbo.models.resnet.BottleneckBlock``."""

    def __init__(self, layers: Layers, fan_in: int, features: int, stride: int):
        super().__init__()
        self.conv1 = layers.conv(fan_in, features, size=1)
        self.conv1_norm = layers.norm(features)
        self.conv2 = layers.conv(features, features, stride=stride)
        self.conv2_norm = layers.norm(features)
        self.conv3 = layers.conv(features, 4 * features, size=1)
        self.conv3_norm = layers.norm(4 * features)
        self.site = layers.site()
        _add_shortcut(self, layers, fan_in, 4 * features, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] to [n, 4 * features, h / stride, w / stride]."""
        y = self.site(functional.relu_(self.conv1_norm(self.conv1(x))))
        y = self.site(functional.relu_(self.conv2_norm(self.conv2(y))))
        y = self.site(self.conv3_norm(self.conv3(y)))
        return functional.relu_(y + self.shortcut_norm(self.shortcut(x)))


def _add_shortcut(
    block: nn.Module, layers: Layers, fan_in: int, features: int, stride: int
) -> None:
    """The input itself, or a 1x1 convolution and BatchNorm of it where shapes differ."""
    same = fan_in == features and stride == 1
    conv = nn.Identity() if same else layers.conv(fan_in, features, size=1, stride=stride)
    block.add_module("shortcut", conv)
    block.add_module("shortcut_norm", nn.Identity() if same else layers.norm(features))


class WideBlock(nn.Module):
    """``bbo.models.wide_resnet.WideBlock``."""

    def __init__(self, layers: Layers, fan_in: int, features: int, stride: int):
        super().__init__()
        self.pre_norm = layers.norm(fan_in)
        self.conv1 = layers.conv(fan_in, features)
        self.conv1_norm = layers.norm(features)
        self.conv2 = layers.conv(features, features, stride=stride)
        self.site = layers.site()
        _add_shortcut(self, layers, fan_in, features, stride)
        self.shortcut_norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] to [n, features, h / stride, w / stride]."""
        y = self.site(self.conv1(functional.relu_(self.pre_norm(x))))
        y = self.conv2(functional.relu_(self.conv1_norm(y)))
        return y + self.shortcut(x)


def _plain(layers: Layers, stages: Stages, pooled: tuple[int, ...]) -> nn.Sequential:
    """Convolutions numbered through, with pooling after some stages: VGG and small_cnn."""
    fan_in, number = layers.colours, 0
    named: dict[str, nn.Module] = {}
    for stage, (count, channels) in enumerate(stages):
        features = layers.channels(channels)
        for _ in range(count):
            number += 1
            named[f"conv{number}"] = layers.conv(fan_in, features)
            named[f"conv{number}_norm"] = layers.norm(features)
            named[f"conv{number}_relu"] = nn.ReLU(inplace=True)
            named[f"conv{number}_site"] = layers.site()
            fan_in = features
        if stage in pooled:
            named[f"pool{stage}"] = nn.MaxPool2d(2)
    return layers.with_head(named, fan_in)


def _resnet(layers: Layers, stages: Stages, block: Any) -> nn.Sequential:
    """A stem with BatchNorm, and stages of blocks."""
    fan_in = layers.channels(stages[0][1])
    named = {
        "stem": layers.conv(layers.colours, fan_in),
        "stem_norm": layers.norm(fan_in),
        "stem_relu": nn.ReLU(inplace=True),
    }
    blocks, fan_in = _blocks(layers, stages, block, fan_in)
    return layers.with_head(named | blocks, fan_in)


def _wide_resnet(layers: Layers, depth: int, widen: int) -> nn.Sequential:
    """A bare stem, stages of wide blocks, and a last BatchNorm."""
    fan_in = layers.channels(CHANNELS[0])
    named = {"stem": layers.conv(layers.colours, fan_in)}
    stages = [((depth - 4) // 6, channels * widen) for channels in CHANNELS]
    blocks, fan_in = _blocks(layers, stages, WideBlock, fan_in)
    end = {
        "final_norm": layers.norm(fan_in, momentum=layers.config.model.final_norm_momentum),
        "final_relu": nn.ReLU(inplace=True),
    }
    return layers.with_head(named | blocks | end, fan_in)


def _blocks(
    layers: Layers, stages: Stages, block: Any, fan_in: int
) -> tuple[dict[str, nn.Module], int]:
    """Those of all stages, halving the image from the second on, and what the last puts out."""
    named: dict[str, nn.Module] = {}
    for stage, (count, channels) in enumerate(stages):
        features = layers.channels(channels)
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            named[f"stage{stage + 1}_block{index}"] = block(layers, fan_in, features, stride)
            fan_in = features * (4 if block is BottleneckBlock else 1)
    return named, fan_in


def create_network(config: ExperimentConfig) -> nn.Module:
    """The network that ``config`` names, from images [n, c, h, w] to logits [n, classes].

    Raises:
      UsageError: noise that there is no PyTorch side for.
    """
    noise = config.noise
    require(noise.noise in NOISES, "noise", noise.noise, "one of " + ", ".join(NOISES))
    require(not noise.noise_on, "noise_on", noise.noise_on, "empty in PyTorch")
    share = noise.activation_target_fraction
    require(share == 1, "activation_target_fraction", share, "1 in PyTorch")
    layers = Layers(config)
    numbers = [int(digits) for digits in re.findall(r"\d+", config.model.model)]
    match config.model.model.rstrip("0123456789_"), *numbers:
        case "vgg", depth:
            stages = list(zip(STAGES[depth], vgg.CHANNELS, strict=True))
            return _plain(layers, stages, pooled=(0, 1, 2, 3, 4))
        case "thin_resnet", depth:
            stages = zip(THIN_STAGES[depth], THIN_CHANNELS, strict=True)
            return _resnet(layers, list(stages), BasicBlock)
        case "resnet", depth:
            stages = zip(FULL_STAGES[depth], FULL_CHANNELS, strict=True)
            block = BottleneckBlock if depth == 50 else BasicBlock
            return _resnet(layers, list(stages), block)
        case "wrn", depth, widen:
            return _wide_resnet(layers, depth, widen)
        case _:
            return _plain(layers, [(1, count) for count in small_cnn.CHANNELS], pooled=(1,))


def state_of(variables: PyTree) -> dict[str, Tensor]:
    """Flax's ``{"params": ..., "batch_stats": ...}`` by PyTorch's names, in its layout."""
    state = {}
    for name, leaf in trees.flatten(variables).items():
        _, *modules, kind = name.split("/")
        array = np.asarray(leaf)
        array = np.ascontiguousarray(array.transpose(LAYOUTS[array.ndim]))
        state[".".join([*modules, LEAVES[kind]])] = torch.tensor(array)
    return state


def load_variables(module: nn.Module, variables: PyTree) -> None:
    """Copies Flax's variables into a network.

    Raises:
      RuntimeError: they are those of another network.
    """
    counts = {name: x for name, x in module.state_dict().items() if name.endswith("_tracked")}
    module.load_state_dict(counts | state_of(variables))
