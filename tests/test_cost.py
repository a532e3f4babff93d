"""Parameters and multiply-adds of the networks, against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from bbo import cost
from bbo.config import ModelConfig
from bbo.models import create_model


def measure(name, **settings):
    """Parameters and multiply-adds; takes no memory."""
    model = create_model(ModelConfig(model=name, **settings), num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return cost.num_params(variables["params"]), cost.layer_macs(model, variables, (32, 32, 3))


def conv(pixels, size, channels, features):
    return pixels**2 * size**2 * channels * features


def test_vgg16():
    stages = [(32, 64, 2), (16, 128, 2), (8, 256, 3), (4, 512, 3), (2, 512, 3)]
    layers, channels = [], 3
    for pixels, features, count in stages:
        for _ in range(count):
            layers.append((pixels, 3, channels, features))
            channels = features
    params, macs = measure("vgg16")
    assert [macs[f"conv{i}/kernel"] for i in range(1, 14)] == [conv(*layer) for layer in layers]
    assert macs["head/kernel"] == 512 * 10 and len(macs) == 14
    assert sum(macs.values()) == sum(conv(*layer) for layer in layers) + 5120 == 313_201_664
    weights = sum(9 * channels * features for _, _, channels, features in layers)
    norms = sum(2 * features for *_, features in layers)
    assert params == weights + norms + 5120 + 10


def residual_macs(*, blocks, widths, stem, first_stride):
    """Three stages at 32, 16 and 8 pixels with projections where the shape changes.

    ``first_stride``: whether the stride is in the first convolution of a block, or the second.
    """
    total, channels = conv(32, 3, 3, stem), stem
    for pixels, width, count in zip((32, 16, 8), widths, blocks, strict=True):
        for index in range(count):
            is_halved = index == 0 and pixels < 32
            before = 2 * pixels if is_halved and not first_stride else pixels
            total += conv(before, 3, channels, width) + conv(pixels, 3, width, width)
            if is_halved or channels != width:
                total += conv(pixels, 1, channels, width)
            channels = width
    return total + channels * 10


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        (
            "thin_resnet34",
            {"blocks": (3, 4, 6), "widths": (16, 32, 64), "stem": 16, "first_stride": True},
            59.7,
        ),
        (
            "wrn28_10",
            {"blocks": (4, 4, 4), "widths": (160, 320, 640), "stem": 16, "first_stride": False},
            5950,
        ),
    ],
)
def test_residual_networks(name, shape, millions):
    _, macs = measure(name)
    assert sum(macs.values()) == residual_macs(**shape)
    assert sum(macs.values()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_biases_are_parameters_but_not_multiply_adds():
    params, macs = measure("thin_resnet18")
    more, same = measure("thin_resnet18", conv_bias=True)
    assert more > params and same == macs
