"""VGG with BatchNorm and one dense layer: of five stages for images of 32x32, and a small one."""

from flax import linen as nn

from bbo.models.layers import Layers, Noise, apply_noise, check_images, max_pool
from bbo.types import Array

STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions in each stage, by depth."""
CHANNELS = (64, 128, 256, 512, 512)
SMALL_STAGES = (2, 2, 2)
SMALL_CHANNELS = (32, 64, 128)
"""Of the network that learns 16x16 images in minutes on two cores."""


class VGG(nn.Module):
    """Convolutions ``conv1``, ``conv2``, ... in stages, each halving the image at its end.

    Simonyan and Zisserman 2014 (arXiv 1409.1556), in the paper's form.
    """

    layers: Layers
    num_classes: int
    stages: tuple[int, ...]
    """Convolutions in each."""
    stage_channels: tuple[int, ...] = CHANNELS
    """Of each, before the width factor."""

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, noise: Noise = None) -> Array:
        """Images [n, h, w, c] to logits [n, classes]; ``noise`` acts after every ReLU, in training.

        Raises:
          UsageError: images too small to be halved so often.
        """
        check_images(images, model="vgg", pixels=2 ** len(self.stages))
        noise = noise if train else None
        x, number = images, 0
        for count, channels in zip(self.stages, self.stage_channels, strict=True):
            for _ in range(count):
                number += 1
                features = self.layers.channels(channels)
                x = self.layers.conv_norm(x, f"conv{number}", features=features, train=train)
                x = apply_noise(self, noise, nn.relu(x))
            x = max_pool(x)
        return self.layers.head(x, num_classes=self.num_classes)
