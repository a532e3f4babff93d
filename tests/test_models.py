"""Networks: golden values, counts, names, sites of noise, precision, and their one convolution."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_names
from flax import traverse_util
from jax import lax

from bbo.config import ModelConfig
from bbo.models import create_model
from bbo.models.layers import Layers, conv2d
from bbo.models.resnet import BasicBlock, BottleneckBlock
from bbo.models.wide_resnet import WideBlock
from bbo.types import UsageError

SMALL = ("small_cnn", "vgg11", "thin_resnet18", "resnet50", "wrn10_1")
SIZES = {"vgg": 32}


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def build(name, *, dtype=jnp.float32, axis_name=None, **settings):
    config = ModelConfig(model=name, **settings)
    return create_model(config, num_classes=10, dtype=dtype, axis_name=axis_name)


def image_shape(name, count=2):
    size = SIZES.get(name[:3], 8)
    return (count, size, size, 3)


def random_images(name, count=2):
    images = np.random.default_rng(1).standard_normal(image_shape(name, count))
    return jnp.asarray(images, jnp.float32)


def draw(model, name):
    """Random variables of the model."""
    return fill(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(image_shape(name))))


def fill(like):
    """Random variables, by numpy: compiling the initialisers takes longer than a test."""
    generator = np.random.default_rng(0)

    def leaf(path, like):
        if len(like.shape) > 1:
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return jnp.asarray(generator.standard_normal(like.shape) * scale, like.dtype)
        return jnp.full(like.shape, path[-1].key in ("scale", "var"), like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def shapes(model, name):
    """Flat name -> shape and dtype of the parameters; takes no memory."""
    images = jnp.zeros(image_shape(name))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return traverse_util.flatten_dict(variables["params"], sep="/")


def count_parameters(model, name):
    return sum(leaf.size for leaf in shapes(model, name).values())


@pytest.mark.parametrize("name", torch_names.NETWORKS)
def test_golden_network(shared_dir, name):
    golden = torch_names.load(shared_dir, name)
    with jax.enable_x64(True):
        model = create_model(golden.config, num_classes=golden.num_classes, dtype=jnp.float64)
        variables = jax.tree.map(jnp.asarray, torch_names.draw_variables(golden))
        images, labels = jnp.asarray(golden.images), jnp.asarray(golden.arrays["labels"])

        def loss(params):
            variables_ = variables | {"params": params}
            logits, _ = model.apply(variables_, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), logits

        @jax.jit
        def compute(params):
            evaluated = model.apply(variables | {"params": params}, images)
            return evaluated, *jax.value_and_grad(loss, has_aux=True)(params)

        logits_eval, (loss_train, logits_train), grads = compute(variables["params"])
    np.testing.assert_allclose(logits_eval, golden.arrays["logits_eval"], rtol=1e-9)
    np.testing.assert_allclose(logits_train, golden.arrays["logits_train"], rtol=1e-9)
    np.testing.assert_allclose(loss_train, golden.arrays["loss_train"], rtol=1e-9)
    flat = traverse_util.flatten_dict({"params": grads}, sep="/")
    names = torch_names.our_names(golden)
    norms = [np.linalg.norm(np.ravel(flat[names[key]])) for key, _ in golden.record["params"]]
    # A bias before BatchNorm has a gradient of zero: rounding is all there is to compare.
    np.testing.assert_allclose(norms, golden.arrays["grad_norms"], rtol=1e-9, atol=1e-12)


def test_golden_networks_are_all_tested(shared_dir):
    records = json.loads((shared_dir / "golden" / "nets.json").read_text())
    assert [record["name"] for record in records] == list(torch_names.NETWORKS)


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


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("small_cnn", 4),
        ("vgg11", 8),
        ("vgg16", 13),
        ("thin_resnet18", 12),
        ("thin_resnet34", 26),
        ("resnet18", 16),
        ("resnet50", 48),
        ("wrn10_2", 3),
        ("wrn28_10", 12),
    ],
)
def test_number_of_noise_sites(name, sites):
    model, images = build(name), random_images(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    seen = []

    def record(key, x):
        seen.append(x.shape)
        return x

    def apply(variables, key, *, noise, **options):
        rngs = {"noise": key}
        return model.apply(variables, images, noise=noise, mutable=True, rngs=rngs, **options)

    jax.eval_shape(lambda v, k: apply(v, k, noise=record, train=True), variables, jax.random.key(2))
    assert len(seen) == sites
    jax.eval_shape(
        lambda v, k: apply(v, k, noise=record, train=False), variables, jax.random.key(2)
    )
    jax.eval_shape(lambda v, k: apply(v, k, noise=None, train=True), variables, jax.random.key(2))
    assert len(seen) == sites


def test_each_noise_site_has_its_own_key_and_acts():
    model, images = build("thin_resnet18", width=1 / 8), random_images("thin_resnet18")
    variables, keys = draw(model, "thin_resnet18"), []

    def half(key, x):
        keys.append(jax.random.key_data(key))
        return x * jnp.asarray(0.5, x.dtype)

    def run(noise):
        rngs = {"noise": jax.random.key(2)}
        logits, _ = model.apply(
            variables, images, train=True, noise=noise, mutable=["batch_stats"], rngs=rngs
        )
        return logits, jnp.stack(keys) if keys else None

    plain, _ = jax.jit(lambda: run(None))()
    noisy, drawn = jax.jit(lambda: run(half))()
    assert len(np.unique(drawn, axis=0)) == len(drawn) == 12
    assert not np.allclose(plain, noisy)


@pytest.mark.parametrize(
    ("block", "rectified"),
    [(BasicBlock, [True, False]), (BottleneckBlock, [True, True, False]), (WideBlock, [False])],
)
def test_noise_acts_after_relu_or_before_the_sum(block, rectified):
    images, seen = random_images("small_cnn"), []
    module = block(layers=Layers(), features=4, stride=2)
    init = functools.partial(module.init, train=False, noise=None)
    variables = fill(jax.eval_shape(init, jax.random.key(0), images))

    def record(key, x):
        seen.append((x >= 0).all())
        return x

    @jax.jit
    def run(key):
        options = {"mutable": ["batch_stats"], "rngs": {"noise": key}}
        module.apply(variables, images, train=True, noise=record, **options)
        return jnp.stack(seen)

    assert run(jax.random.key(0)).tolist() == rectified


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


def statistics(model, variables, images):
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    _, updated = jax.jit(train)(variables, images)
    return traverse_util.flatten_dict(updated["batch_stats"], sep="/")


def test_running_statistics_move_by_one_minus_momentum():
    images = random_images("small_cnn", 8)
    variables = draw(build("small_cnn"), "small_cnn")
    kernel = variables["params"]["conv1"]["kernel"]
    y = lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    for momentum in (0.9, 0.25):
        new = statistics(build("small_cnn", norm_momentum=momentum), variables, images)
        close = {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(new["conv1_norm/mean"], (1 - momentum) * mean, **close)
        expected = momentum + (1 - momentum) * var
        np.testing.assert_allclose(new["conv1_norm/var"], expected, **close)


def test_final_norm_momentum_is_of_the_last_norm_alone():
    images = random_images("wrn10_1", 4)
    variables = draw(build("wrn10_1"), "wrn10_1")
    slow = statistics(build("wrn10_1"), variables, images)
    fast = statistics(build("wrn10_1", final_norm_momentum=0.1), variables, images)
    for key, value in slow.items():
        old = 1.0 if key.endswith("var") else 0.0
        factor = 9.0 if key.startswith("final_norm") else 1.0
        np.testing.assert_allclose(fast[key] - old, factor * (value - old), rtol=1e-4, atol=1e-6)


def test_axis_name_synchronises_statistics():
    images = random_images("small_cnn", 8)
    model = build("small_cnn", axis_name="devices")
    variables = draw(model, "small_cnn")

    def run(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    whole, whole_stats = jax.jit(lambda x: run(build("small_cnn"), x))(images)
    synchronised = jax.jit(jax.vmap(lambda x: run(model, x), axis_name="devices"))
    halves, stats = synchronised(images.reshape(2, 4, *images.shape[1:]))
    np.testing.assert_allclose(halves.reshape(8, 10), whole, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(whole_stats), strict=True):
        np.testing.assert_array_equal(mine[0], mine[1])
        np.testing.assert_allclose(mine[0], theirs, rtol=1e-4, atol=1e-6)
    # Without a mapped axis the same model evaluates.
    assert jax.eval_shape(model.apply, variables, images).shape == (8, 10)


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
    with pytest.raises(UsageError, match=r"vgg16 .*\[1, 8, 8, 1\].* at least 32x32"):
        jax.eval_shape(build("vgg16").init, jax.random.key(0), images)
    with pytest.raises(UsageError, match="small_cnn .* at least 2x2"):
        build("small_cnn").init(jax.random.key(0), images[:, :1])
    for name in ("thin_resnet18", "wrn10_1"):
        with pytest.raises(UsageError, match=r"\[n, height, width, channels\]"):
            build(name).init(jax.random.key(0), images[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((2, 2), 3, 1),
        ((2, 2), 3, 2),
        ((4, 3), 5, 1),
        ((2, 7), 3, 2),
        ((1, 2), 3, 1),
        ((6, 6), 3, 2),
    ],
)
def test_conv2d_equals_lax(dtype, size, kernel, stride):
    generator = np.random.default_rng(0)
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "feature_group_count": 1,
        "precision": lax.Precision.HIGHEST,
    }
    geometry = ((stride, stride), [(kernel // 2, kernel // 2)] * 2)
    out_shape = (2, *((n - 1) // stride + 1 for n in size), 4)

    def value_and_gradients(convolution, x, w, upstream):
        out, pullback = jax.vjp(lambda x, w: convolution(x, w, *geometry, **options), x, w)
        return out, *pullback(upstream)

    with jax.enable_x64(True):
        arguments = [
            jnp.asarray(generator.standard_normal(shape), dtype)
            for shape in ((2, *size, 5), (kernel, kernel, 5, 4), out_shape)
        ]
        own = functools.partial(value_and_gradients, conv2d)
        reference = functools.partial(value_and_gradients, lax.conv_general_dilated)
        results = zip(jax.jit(own)(*arguments), jax.jit(reference)(*arguments), strict=True)
        program = str(jax.make_jaxpr(own)(*arguments))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for mine, theirs in results:
        assert mine.dtype == theirs.dtype == dtype
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    assert ("conv_general_dilated" in program) == (size == (6, 6))


@pytest.mark.parametrize("option", [{"feature_group_count": 2}, {"rhs_dilation": (2, 2)}])
def test_conv2d_leaves_special_convolutions_to_lax(option):
    x, w = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4 // option.get("feature_group_count", 1), 4))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | option
    programs = [
        str(jax.make_jaxpr(lambda f=f: f(x, w, (1, 1), [(2, 2), (2, 2)], **options))())
        for f in (conv2d, lax.conv_general_dilated)
    ]
    assert programs[0] == programs[1]
