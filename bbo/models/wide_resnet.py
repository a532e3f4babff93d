"""Wide residual networks with BatchNorm before the convolutions, in the paper's form."""

from flax import linen as nn

from bbo.models.layers import Layers, Noise, apply_noise, check_images
from bbo.types import Array

CHANNELS = (16, 32, 64)


class WideBlock(nn.Module):
    """BatchNorm, ReLU and 3x3 convolution, twice, beside a shortcut from the raw input.

    As in the paper's program, and unlike the original, the second convolution has the stride.
    """

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool, noise: Noise) -> Array:
        """[n, h, w, in] to [n, h / stride, w / stride, features]."""
        features, stride = self.features, self.stride
        y = nn.relu(self.layers.norm(x, "pre_norm", train=train))
        y = self.layers.conv(y, "conv1", features=features)
        y = apply_noise(self, noise, y)
        y = nn.relu(self.layers.norm(y, "conv1_norm", train=train))
        y = self.layers.conv(y, "conv2", features=features, stride=stride)
        if self.layers.has("shortcut", otherwise=x.shape != y.shape):
            x = self.layers.conv(x, "shortcut", features=features, size=1, stride=stride)
        return y + x


class WideResNet(nn.Module):
    """A 3x3 stem, three stages of blocks, a last BatchNorm and a dense layer.

    Zagoruyko and Komodakis 2016 (arXiv 1605.07146).
    """

    layers: Layers
    num_classes: int
    depth: int
    """6 n + 4, for n blocks in each stage."""
    widen: int
    """Factor on the channels of the stages, not on those of the stem."""
    final_norm_momentum: float

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False, noise: Noise = None) -> Array:
        """Images [n, h, w, c] to logits [n, classes].

        In training ``noise`` acts after the first convolution of each block.

        Raises:
          UsageError: images of another number of axes.
        """
        check_images(images, model=f"wrn{self.depth}_{self.widen}")
        noise = noise if train else None
        x = self.layers.conv(images, "stem", features=self.layers.channels(CHANNELS[0]))
        for stage, channels in enumerate(CHANNELS, start=1):
            for index in range((self.depth - 4) // 6):
                name = f"stage{stage}_block{index}"
                x = WideBlock(
                    layers=self.layers.inside(name),
                    features=self.layers.channels(channels * self.widen),
                    stride=2 if stage > 1 and index == 0 else 1,
                    name=name,
                )(x, train=train, noise=noise)
        x = self.layers.norm(x, "final_norm", train=train, momentum=self.final_norm_momentum)
        return self.layers.head(nn.relu(x), num_classes=self.num_classes)
