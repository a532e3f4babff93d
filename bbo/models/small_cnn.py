"""A network of four convolutions for 8x8 digits: trains in seconds on a laptop."""

from flax import linen as nn

from bbo.models.layers import Layers, Noise, apply_noise, check_images, max_pool
from bbo.types import Array

CHANNELS = (32, 32, 64, 64)


class SmallCNN(nn.Module):
    """Four times conv-BatchNorm-ReLU, halving the image after the second, and a dense layer."""

    layers: Layers
    num_classes: int

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, noise: Noise = None) -> Array:
        """Images [n, h, w, c] to logits [n, classes]; ``noise`` acts after every ReLU, in training.

        Raises:
          UsageError: images of fewer than 2x2 pixels.
        """
        check_images(images, model="small_cnn", pixels=2)
        noise = noise if train else None
        x = images
        for number, channels in enumerate(CHANNELS, start=1):
            features = self.layers.channels(channels)
            x = self.layers.conv_norm(x, f"conv{number}", features=features, train=train)
            x = apply_noise(self, noise, nn.relu(x))
            if number == 2:
                x = max_pool(x)
        return self.layers.head(x, num_classes=self.num_classes)
