"""Multiply-adds and parameters of compact networks, worked out by hand from the architecture."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bbo import compaction, pruning, trees
from bbo.compaction import channels, cost
from bbo.models.create import create_model, kept_channels
from bbo.pruning.units import describe
from bbo.settings.sections import ModelConfig

pytestmark = pytest.mark.slow

IMAGE = (32, 32, 3)
PERCENT = range(10, 100, 10)


def left(channels, percent):
    """Of so many, when this share of them is removed, rounded down."""
    return channels - channels * percent // 100


class Count:
    """Layers, added up: multiply-adds of an image and parameters."""

    def __init__(self):
        self.macs = self.params = 0

    def conv(self, pixels, size, inputs, filters):
        """Without a bias."""
        self.macs += pixels**2 * size**2 * inputs * filters
        self.params += size**2 * inputs * filters
        return filters

    def norm(self, channels):
        self.params += 2 * channels
        return channels

    def head(self, inputs):
        self.macs += inputs * 10
        self.params += (inputs + 1) * 10
        return self.macs, self.params


def vgg16(percent):
    count, inputs = Count(), 3
    for pixels, width, layers in ((32, 64, 2), (16, 128, 2), (8, 256, 3), (4, 512, 3), (2, 512, 3)):
        for _ in range(layers):
            inputs = count.norm(count.conv(pixels, 3, inputs, left(width, percent)))
    return count.head(inputs)


def thin_resnet34(percent):
    """The first stage adds to the channels of the stem; the others project to their own."""
    count = Count()
    stream = count.norm(count.conv(32, 3, 3, left(16, percent)))
    for pixels, width, blocks in ((32, 16, 3), (16, 32, 4), (8, 64, 6)):
        for block in range(blocks):
            inputs, stream = stream, left(width, percent)
            inner = count.norm(count.conv(pixels, 3, inputs, left(width, percent)))
            count.norm(count.conv(pixels, 3, inner, stream))
            if width > 16 and block == 0:
                count.norm(count.conv(pixels, 1, inputs, stream))
    return count.head(stream)


def wrn28_10(percent):
    """Norms before convolutions; the stride is in the second of a block, and in its shortcut."""
    count = Count()
    stream = count.conv(32, 3, 3, left(16, percent))
    for pixels, width in ((32, 160), (16, 320), (8, 640)):
        for block in range(4):
            inputs, stream = count.norm(stream), left(width, percent)
            before = 2 * pixels if width > 160 and block == 0 else pixels
            inner = count.norm(count.conv(before, 3, inputs, left(width, percent)))
            count.conv(pixels, 3, inner, stream)
            if block == 0:
                count.conv(pixels, 1, inputs, stream)
    return count.head(count.norm(stream))


def compact_shapes(model, scope):
    """From a sparsity to the variables that are left, by the counts that pruning takes."""
    image = jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found = channels.find_channels(model.apply, variables, image)
    kernels = pruning.eligible(variables["params"])
    scored = {name: jnp.zeros(leaf.shape[-1]) for name, leaf in kernels.items()}
    if scope == "group":
        units = describe(found.within("params"), lambda name, _: name in scored).units
        assert {name for own in units.values() for name, _ in own.kernels} == scored.keys()
    assert scored.keys() == kernels.keys()

    def left_at(sparsity):
        counts = pruning.drop_counts(scored, sparsity, scope=scope)
        dropped = []
        for group in found.removable:
            (count,) = {
                counts[name.removeprefix("params/")]
                for name, axis in group.writers
                if axis == 3 and name.endswith("/kernel")
            }
            dropped.append(np.arange(group.size) < count)
        cut = channels.cut_of(found.removable, dropped)
        return jax.eval_shape(lambda leaves: compaction.smaller(leaves, cut), variables)

    return left_at


DENSE = {"vgg16": 313_201_664, "thin_resnet34": 59.7e6, "wrn28_10": 5.95e9}
CASES = [(vgg16, "local"), (vgg16, "group"), (thin_resnet34, "group"), (wrn28_10, "group")]


@pytest.mark.parametrize(
    ("expected", "scope"), CASES, ids=[f"{f.__name__}, {scope}" for f, scope in CASES]
)
def test_what_is_left_of_uniformly_pruned_networks(expected, scope):
    name = expected.__name__
    assert expected(0)[0] == pytest.approx(DENSE[name], rel=1e-3)
    left_at = compact_shapes(networks.build(name), scope)
    for percent in (0, *PERCENT):
        small = left_at(percent / 100)
        model = rebuilt(name, small)
        macs = sum(cost.layer_macs(model, small, IMAGE).values())
        assert (macs, cost.num_params(small["params"])) == expected(percent), percent


def rebuilt(name, variables):
    """The network of these widths, which has just these variables."""
    kept = kept_channels(variables["params"])
    model = create_model(ModelConfig(model=name), num_classes=10, kept=kept)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *IMAGE)))
    assert trees.flatten(shapes) == trees.flatten(variables)
    return model
