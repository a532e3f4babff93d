"""VGG with BatchNorm and one dense layer, for images of 32x32 and more."""

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


class VGG(nn.Module):
    """Convolutions ``conv1``, ``conv2``, ... in five stages, each halving the image at its end.

    Simonyan and Zisserman 2014 (arXiv 1409.1556), in the paper's form.
    """

    layers: Layers
    num_classes: int
    depth: int

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, noise: Noise = None) -> Array:
        """Images [n, h, w, c] to logits [n, classes]; ``noise`` acts after every ReLU, in training.

        Raises:
          UsageError: images of fewer than 32x32 pixels.
        """
        check_images(images, model=f"vgg{self.depth}", pixels=32)
        noise = noise if train else None
        x, number = images, 0
        for count, channels in zip(STAGES[self.depth], CHANNELS, strict=True):
            for _ in range(count):
                number += 1
                features = self.layers.channels(channels)
                x = self.layers.conv_norm(x, f"conv{number}", features=features, train=train)
                x = apply_noise(self, noise, nn.relu(x))
            x = max_pool(x)
        return self.layers.head(x, num_classes=self.num_classes)
