"""Parameters, multiply-adds and bytes against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import build

from bbo import compaction
from bbo.compaction import channels, cost
from bbo.compaction.replay import smaller_function
from bbo.types import UsageError


def float32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(model, pixels):
    """Of its variables and of one image; takes no memory."""
    image = float32(1, pixels, pixels, 3)
    return jax.eval_shape(model.init, jax.random.key(0), image), image


def measure(name, **settings):
    """Parameters, and multiply-adds by layer."""
    model = build(name, **settings)
    variables, _ = shapes(model, 32)
    return cost.num_params(variables["params"]), cost.layer_macs(model, variables, (32, 32, 3))


def conv(pixels, size, inputs, features):
    return pixels**2 * size**2 * inputs * features


def vgg16_layers():
    """(pixels, window, inputs, filters) of each convolution."""
    stages = [(32, 64, 2), (16, 128, 2), (8, 256, 3), (4, 512, 3), (2, 512, 3)]
    layers, inputs = [], 3
    for pixels, features, count in stages:
        for _ in range(count):
            layers.append((pixels, 3, inputs, features))
            inputs = features
    return layers


def test_vgg16():
    layers = vgg16_layers()
    params, macs = measure("vgg16")
    assert [macs[f"conv{i}/kernel"] for i in range(1, 14)] == [conv(*layer) for layer in layers]
    assert macs["head/kernel"] == 512 * 10 and len(macs) == 14
    assert sum(macs.values()) == sum(conv(*layer) for layer in layers) + 5120 == 313_201_664
    weights = sum(9 * inputs * features for _, _, inputs, features in layers)
    norms = sum(2 * features for *_, features in layers)
    assert params == weights + norms + 5120 + 10


def residual_macs(*, blocks, widths, stem, first_stride):
    """Three stages at 32, 16 and 8 pixels with projections where the shape changes.

    ``first_stride``: whether the stride is in the first convolution of a block, or the second.
    """
    total, inputs = conv(32, 3, 3, stem), stem
    for pixels, width, count in zip((32, 16, 8), widths, blocks, strict=True):
        for index in range(count):
            is_halved = index == 0 and pixels < 32
            before = 2 * pixels if is_halved and not first_stride else pixels
            total += conv(before, 3, inputs, width) + conv(pixels, 3, width, width)
            if is_halved or inputs != width:
                total += conv(pixels, 1, inputs, width)
            inputs = width
    return total + inputs * 10


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


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("small_cnn", 8),
        ("vgg16", 32),  # its last stage multiplies gathered windows, see layers.conv2d
        ("thin_resnet34", 32),
        ("resnet50", 8),
        ("wrn28_10", 32),
    ],
)
def test_macs_of_the_program_are_those_of_the_layers(name, pixels):
    model = build(name)
    variables, image = shapes(model, pixels)
    layers = cost.layer_macs(model, variables, (pixels, pixels, 3))
    images = float32(5, pixels, pixels, 3)
    assert cost.count_macs(model.apply, variables, image) == sum(layers.values())
    assert cost.count_macs(model.apply, variables, images) == 5 * sum(layers.values())


@pytest.mark.parametrize(
    ("images", "kernel", "options", "expected"),
    [
        ((9, 9, 6), (3, 3, 6, 4), {}, 7 * 7 * 9 * 6 * 4),
        ((9, 9, 6), (3, 3, 6, 4), {"window_strides": (2, 3)}, 4 * 3 * 9 * 6 * 4),
        ((9, 9, 6), (3, 3, 6, 4), {"padding": ((1, 1), (0, 2))}, 9 * 9 * 9 * 6 * 4),
        ((9, 9, 6), (3, 3, 6, 4), {"rhs_dilation": (2, 4)}, 5 * 1 * 9 * 6 * 4),
        ((9, 9, 6), (3, 3, 3, 4), {"feature_group_count": 2}, 7 * 7 * 9 * 3 * 4),
        ((9, 9, 6), (3, 3, 1, 6), {"feature_group_count": 6}, 7 * 7 * 9 * 6),
        # Transposed: each of 9 x 9 inputs meets each weight once, however they are spread.
        (
            (9, 9, 6),
            (2, 3, 6, 4),
            {"lhs_dilation": (2, 3), "padding": ((1, 1), (2, 2))},
            9 * 9 * 2 * 3 * 6 * 4,
        ),
        # Along the one axis every second of 7 positions meets inputs, at all of its 3 weights;
        # along the other all of 5 do, at the one in the middle.
        (
            (5, 5, 6),
            (3, 3, 6, 4),
            {
                "lhs_dilation": (2, 2),
                "rhs_dilation": (2, 1),
                "window_strides": (1, 2),
                "padding": ((1, 1), (1, 1)),
            },
            (3 * 3) * (5 * 1) * 6 * 4,
        ),
    ],
    ids="plain strides padding dilation groups depthwise transposed all".split(),
)
def test_macs_of_convolutions(images, kernel, options, expected):
    def convolve(kernel, images):
        settings = {"window_strides": (1, 1), "padding": "VALID"} | options
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, dimension_numbers=numbers, **settings)

    assert cost.count_macs(convolve, float32(*kernel), float32(2, *images)) == 2 * expected


def test_macs_of_convolutions_with_groups_of_the_batch():
    """The gradient of a depthwise kernel: as many multiply-adds as the convolution itself."""

    def convolve(kernel, images):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=6
        )

    def gradient(images, results):
        return jax.vjp(lambda kernel: convolve(kernel, images), jnp.zeros((3, 3, 1, 6)))[1](results)

    forward = 4 * 7 * 7 * 9 * 6
    assert cost.count_macs(gradient, float32(4, 9, 9, 6), float32(4, 7, 7, 6)) == 2 * forward


def rounds(w, x):
    return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]


def nested(w, x):
    return lax.fori_loop(0, 3, lambda _, x: rounds(w, x), x)


def branches(w, x):
    return lax.switch(1, [lambda: x, lambda: x @ w, lambda: x @ w @ w], *())


def attention(w, x):
    return jnp.einsum("bi,ij,bj->b", x, w, x)


def of_weights(w, x):
    return x @ (w @ w)


def batched(w, x):
    return jnp.einsum("bi,bij->bj", x, jnp.broadcast_to(w, (2, 8, 8)))


def inlined(w, x):
    return jax.checkpoint(jax.jit(lambda x: jax.nn.relu(x @ w)))(x)


def waiting(w, x):
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x) @ w


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (rounds, 7 * 128),
        (nested, 3 * 7 * 128),
        (branches, 2 * 128),
        (attention, 128 + 16),
        (of_weights, 128 + 8**3),
        (batched, 128),
        (inlined, 128),
        (waiting, 128),
    ],
)
def test_macs_of_products(function, expected):
    assert cost.count_macs(function, float32(8, 8), float32(2, 8)) == expected


def endless(w, x):
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)


def ragged(w, x):
    return lax.ragged_dot(x, w[None], jnp.array([2]))


def on_a_mesh(w, x):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    return jax.shard_map(lambda x: x @ w, mesh=mesh, in_specs=spec, out_specs=spec)(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (endless, "while loop cannot be counted: .* write it as a scan"),
        (ragged, "multiply-adds of ragged_dot_general cannot be counted; write"),
        (on_a_mesh, "multiply-adds of shard_map cannot be counted; write"),
    ],
)
def test_macs_that_cannot_be_counted(function, message):
    with pytest.raises(UsageError, match=message):
        cost.count_macs(function, float32(8, 8), float32(2, 8))


@pytest.fixture(scope="module")
def vgg16():
    """The network, the shapes of its variables and of an image, its channels."""
    model = build("vgg16")
    variables, image = shapes(model, 32)
    return model, variables, image, channels.find_channels(model.apply, variables, image)


@pytest.mark.parametrize("percent", range(10, 100, 10))
def test_macs_of_vgg16_with_filters_removed(vgg16, percent):
    model, variables, image, found = vgg16
    assert len(found.removable) == 13
    removed = [np.arange(group.size) < int(group.size * percent / 100) for group in found.removable]
    cut = channels.cut_of(found.removable, removed)
    small = smaller_function(model.apply, found, cut, check=lambda others: None)
    small_variables = jax.eval_shape(lambda leaves: compaction.smaller(leaves, cut), variables)

    expected, before = 0, 3
    for pixels, _, _, features in vgg16_layers():
        kept = features - int(features * percent / 100)
        expected += conv(pixels, 3, before, kept)
        before = kept
    expected += before * 10
    assert cost.count_macs(small, small_variables, image) == expected
    assert cost.macs_left(found, cut) == (expected, 313_201_664)
    if percent == 50:
        assert expected / 313_201_664 == pytest.approx(0.251, abs=5e-4)


def test_macs_of_a_compacted_function():
    weights = {"in": jnp.ones((3, 8)).at[:, 2:].set(0), "out": jnp.ones((8, 5))}
    images = float32(4, 3)

    def network(weights, x):
        return jax.nn.relu(x @ weights["in"]) @ weights["out"]

    small = compaction.compact(network, weights, images)
    assert cost.count_macs(network, weights, images) == 4 * (3 * 8 + 8 * 5)
    assert cost.count_macs(small.function, small.variables, images) == 4 * (3 * 2 + 2 * 5)
