"""Residual networks for small images: the paper's thin ones and those of full width."""

from flax import linen as nn

from bbo.models.layers import Layers, Noise, apply_noise, check_images
from bbo.types import Array

THIN_STAGES = {18: (2, 2, 2), 20: (3, 3, 3), 34: (3, 4, 6)}
"""Blocks in each stage of the thin networks, by name: the paper's 18 and 34, and ResNet-20."""
THIN_CHANNELS = (16, 32, 64)
FULL_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage of the networks of full width, by depth."""
FULL_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, noise: Noise) -> Array:
        """[n, h, w, in] to [n, h / stride, w / stride, features]."""
        features, stride = self.features, self.stride
        y = self.layers.conv_norm(x, "conv1", features=features, stride=stride, train=train)
        y = apply_noise(self, noise, nn.relu(y))
        y = self.layers.conv_norm(y, "conv2", features=features, train=train)
        y = apply_noise(self, noise, y)
        return nn.relu(y + _shortcut(self.layers, x, y, stride=stride, train=train))


class BottleneckBlock(nn.Module):
    """A 3x3 convolution between two of 1x1, the last four times as wide, beside a shortcut."""

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, noise: Noise) -> Array:
        """[n, h, w, in] to [n, h / stride, w / stride, 4 * features]."""
        features, stride = self.features, self.stride
        y = self.layers.conv_norm(x, "conv1", features=features, size=1, train=train)
        y = apply_noise(self, noise, nn.relu(y))
        y = self.layers.conv_norm(y, "conv2", features=features, stride=stride, train=train)
        y = apply_noise(self, noise, nn.relu(y))
        y = self.layers.conv_norm(y, "conv3", features=4 * features, size=1, train=train)
        y = apply_noise(self, noise, y)
        return nn.relu(y + _shortcut(self.layers, x, y, stride=stride, train=train))


def _shortcut(layers: Layers, x: Array, y: Array, *, stride: int, train: bool) -> Array:
    """``x`` itself, or projected to the shape of ``y`` by a 1x1 convolution and BatchNorm."""
    if not layers.has("shortcut", otherwise=x.shape != y.shape):
        return x
    return layers.conv_norm(x, "shortcut", features=y.shape[-1], size=1, stride=stride, train=train)


class ResNet(nn.Module):
    """A 3x3 stem, stages of blocks that halve the image from the second on, and a dense layer.

    He et al. 2015 (arXiv 1512.03385), without the early pooling meant for large images.
    """

    layers: Layers
    num_classes: int
    stages: tuple[int, ...]
    """Blocks in each stage."""
    channels: tuple[int, ...]
    """Of each stage, before the width factor; the stem has those of the first."""
    bottleneck: bool = False

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, noise: Noise = None) -> Array:
        """Images [n, h, w, c] to logits [n, classes].

        In training ``noise`` acts in each block, after every ReLU but the last and after the
        last BatchNorm.

        Raises:
          UsageError: images of another number of axes.
        """
        check_images(images, model="resnet")
        noise = noise if train else None
        stem = self.layers.channels(self.channels[0])
        x = nn.relu(self.layers.conv_norm(images, "stem", features=stem, train=train))
        block = BottleneckBlock if self.bottleneck else BasicBlock
        for stage, (count, channels) in enumerate(zip(self.stages, self.channels, strict=True)):
            for index in range(count):
                name = f"stage{stage + 1}_block{index}"
                x = block(
                    layers=self.layers.inside(name),
                    features=self.layers.channels(channels),
                    stride=2 if stage > 0 and index == 0 else 1,
                    name=name,
                )(x, train=train, noise=noise)
        return self.layers.head(x, num_classes=self.num_classes)
