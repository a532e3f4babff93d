"""Networks: counts, names, precision and initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from networks import build, count_parameters, draw, image_shape, random_images, shapes

from bbo.types import UsageError

SMALL = ("small_cnn", "vgg11", "thin_resnet18", "resnet50", "wrn10_1")


@pytest.mark.parametrize(
    ("name", "conv_bias", "count"),
    [
        ("vgg11", True, 9_231_114),
        ("vgg16", True, 14_728_266),
        ("thin_resnet34", True, 514_218),
        ("wrn10_2", True, 304_394),
        ("wrn28_10", True, 36_489_290),
        ("resnet18", False, 11_173_962),
        ("resnet34", False, 21_282_122),
        ("resnet50", False, 23_520_842),
    ],
)
def test_parameter_counts(name, conv_bias, count):
    assert count_parameters(build(name, conv_bias=conv_bias), name) == count


@pytest.mark.parametrize("name", ["vgg13", "vgg19", "thin_resnet34", "wrn16_4", *SMALL])
def test_conv_bias_adds_one_parameter_per_filter(name):
    without = shapes(build(name), name)
    filters = sum(leaf.shape[-1] for leaf in without.values() if len(leaf.shape) == 4)
    assert count_parameters(build(name, conv_bias=True), name) - filters == sum(
        leaf.size for leaf in without.values()
    )
    assert {leaf.dtype for leaf in without.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", SMALL)
def test_width_scales_every_layer(name):
    full, eighth = shapes(build(name), name), shapes(build(name, width=1 / 8), name)
    for key, leaf in full.items():
        if len(leaf.shape) == 4:
            assert eighth[key].shape[-1] == leaf.shape[-1] // 8
    least = shapes(build(name, width=1e-3), name)
    bottleneck = 4 if name == "resnet50" else 1
    assert max(max(leaf.shape) for leaf in least.values()) <= max(10, bottleneck)
    assert min(leaf.shape[-1] for leaf in least.values()) == 1


@pytest.mark.parametrize("name", SMALL)
def test_named_norm_alone_reads_its_convolution(name):
    model, images = build(name, width=1 / 16), random_images(name)
    variables = draw(model, name)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")

    @jax.jit
    def logits(flat):
        params = traverse_util.unflatten_dict(flat, sep="/")
        return model.apply(variables | {"params": params}, images)

    scales = {key for key in flat if key.endswith("/scale")}
    base, changes = logits(flat), []
    for key in [key for key in flat if key.endswith("/kernel") and key != "head/kernel"]:
        scale = key.replace("/kernel", "_norm/scale")
        changed = flat | {key: -flat[key]}
        changes.append(not np.array_equal(logits(changed), base))
        if scale in flat:
            scales.remove(scale)
            dead = {scale: jnp.zeros_like(flat[scale])}
            np.testing.assert_array_equal(logits(changed | dead), logits(flat | dead))
    assert all(changes)
    assert {key.split("/")[-2] for key in scales} == (
        {"pre_norm", "final_norm"} if name.startswith("wrn") else set()
    )


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    for name in SMALL:
        model, images = build(name, dtype="bfloat16"), random_images(name)
        dtypes = []

        def record(key, x, dtypes=dtypes):
            dtypes.append(x.dtype)
            return x

        def step(images, model=model, record=record):
            variables = model.init(jax.random.key(0), images)
            rngs = {"noise": jax.random.key(1)}
            return variables, model.apply(
                variables, images, train=True, noise=record, mutable=["batch_stats"], rngs=rngs
            )

        leaves = jax.tree.leaves(jax.eval_shape(step, images))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
        assert set(dtypes) == {jnp.dtype("bfloat16")}


def test_bfloat16_is_close_to_float32():
    images = random_images("small_cnn", 8)
    variables = draw(build("small_cnn"), "small_cnn")
    exact = jax.jit(build("small_cnn").apply)(variables, images)
    # Op by op: XLA's YNN fusions on the CPU (default since jaxlib 0.12) yield NaN in bfloat16.
    rough = build("small_cnn", dtype="bfloat16").apply(variables, images)
    # Eight bits of mantissa, some ten roundings.
    assert 0 < np.abs(exact - rough).max() < 10 * 2**-8 * np.abs(exact).max()


def test_initial_weights_are_xavier_uniform_with_gain_sqrt_2():
    model = build("small_cnn", conv_bias=True)
    images = jnp.zeros(image_shape("small_cnn"))

    @jax.jit
    def some(key):
        params = model.init(key, images)["params"]
        return params["conv3"]["kernel"], [params[name]["bias"] for name in ("conv1", "head")]

    kernel, biases = some(jax.random.key(0))
    kernel = np.asarray(kernel, np.float64)
    bound = np.sqrt(2) * np.sqrt(6 / (9 * 32 + 9 * 64))
    assert np.abs(kernel).max() <= bound
    n = kernel.size
    assert abs(kernel.mean()) < 4 * bound / np.sqrt(3 * n)
    assert abs((kernel**2).mean() - bound**2 / 3) < 4 * bound**2 * np.sqrt(4 / 45 / n)
    assert not any(bias.any() for bias in biases)


def test_images_too_small_are_refused():
    images = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UsageError, match=r"vgg .*\[1, 8, 8, 1\].* at least 32x32"):
        jax.eval_shape(build("vgg16").init, jax.random.key(0), images)
    with pytest.raises(UsageError, match="small_cnn .* at least 2x2"):
        build("small_cnn").init(jax.random.key(0), images[:, :1])
    for name in ("thin_resnet18", "wrn10_1"):
        with pytest.raises(UsageError, match=r"\[n, height, width, channels\]"):
            build(name).init(jax.random.key(0), images[0])
