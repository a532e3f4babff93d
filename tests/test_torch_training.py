"""The PyTorch side of the benchmark computes what ours does: logits, noise, gradients, steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bbo import data, noise, perturb, train, trees
from bbo.catalog import DATASETS
from bbo.config import ExperimentConfig, NoiseConfig, override
from bbo.models import create_model
from bbo.optim import create_optimizer
from bbo.types import UsageError

torch = pytest.importorskip("torch")

from experiments import torch_networks, torch_noise, torch_training  # noqa: E402
from experiments.torch_training import Variant  # noqa: E402

MODELS = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "thin_resnet18", "thin_resnet34"),
    *("resnet18", "resnet34", "resnet50", "wrn10_2", "wrn16_4", "small_cnn"),
)
"""All of them, or one of each rule."""
SHAPES = "vgg11", "thin_resnet18", "resnet50", "wrn10_2", "small_cnn"
"""One of each kind of layer."""


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(model, **values):
    values = {"dataset": "cifar10", "width": 0.125, "noise": "none"} | values
    return override(ExperimentConfig(), model=model, **values)


def model_of(config):
    return create_model(config.model, num_classes=DATASETS[config.data.dataset].num_classes)


def shapes_of(config):
    images = jnp.zeros((2, *DATASETS[config.data.dataset].image_shape))
    return jax.eval_shape(model_of(config).init, jax.random.key(0), images)


def draw(config):
    """Random variables, all of them different from what a layer starts with."""
    generator = np.random.default_rng(0)

    def leaf(path, like):
        if len(like.shape) > 1:
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return jnp.asarray(generator.standard_normal(like.shape) * scale, jnp.float32)
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.1, 0.1)
        return jnp.asarray(generator.uniform(low, high, like.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes_of(config))


def draw_images(config, count=4):
    generator = np.random.default_rng(1)
    info = DATASETS[config.data.dataset]
    images = generator.integers(0, 256, (count, *info.image_shape), np.uint8)
    return images, generator.integers(0, info.num_classes, count).astype(np.int32)


def loaded(config, variables, dtype=torch.float32):
    network = torch_networks.create_network(config).to(dtype)
    torch_networks.load_variables(network, variables)
    return network


def relative(ours, theirs):
    """The distance of two arrays in the length of ours."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(ours)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_array_has_its_place(name, bias):
    config = settings(name, conv_bias=bias)
    ours = {}
    for leaf_name, leaf in traverse_util.flatten_dict(shapes_of(config), sep="/").items():
        _, *modules, kind = leaf_name.split("/")
        shape = tuple(leaf.shape[axis] for axis in torch_networks.LAYOUTS[leaf.ndim])
        ours[".".join([*modules, torch_networks.LEAVES[kind]])] = shape
    with torch.device("meta"):
        theirs = torch_networks.create_network(config).state_dict()
    assert {n: tuple(x.shape) for n, x in theirs.items() if not n.endswith("_tracked")} == ours


@pytest.mark.parametrize("name", SHAPES)
def test_logits(name):
    config = settings(name, conv_bias=True)
    variables = draw(config)
    pixels = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)
    ours = jax.jit(model_of(config).apply)(variables, pixels)
    network = loaded(config, variables).eval()
    with torch.no_grad():
        theirs = network(torch.tensor(pixels.transpose(0, 3, 1, 2)))
        channels_last = network.to(memory_format=torch.channels_last)
        again = channels_last(torch.tensor(pixels).permute(0, 3, 1, 2))
    assert relative(ours, theirs) < 1e-5
    assert relative(ours, again) < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_dropout_acts_where_ours_does(name):
    config = settings(name, noise="dropout")
    pixels = np.random.default_rng(2).standard_normal((4, 32, 32, 3))
    # In place of random numbers. In float64, since BatchNorm of few images magnifies rounding.
    disturb = lambda x: 1.5 * x - 1  # noqa: E731
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), draw(config))
        model = create_model(config.model, num_classes=10, dtype=jnp.float64)
        options = {"train": True, "mutable": ["batch_stats"], "rngs": {"noise": jax.random.key(0)}}
        apply = functools.partial(model.apply, noise=lambda _, x: disturb(x), **options)
        logits, updates = jax.jit(apply)(variables, pixels)
        network = loaded(config, variables, torch.float64).train()
    sites = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert {site.p for site in sites} == {config.noise.rate}
    for site in sites:
        site.register_forward_hook(lambda _, inputs, output: disturb(inputs[0]))
    with torch.no_grad():
        theirs = network(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    assert relative(logits, theirs) < 1e-9
    state = network.state_dict()
    for key, mean in torch_networks.state_of(updates).items():
        if key.endswith("_mean"):
            assert relative(mean, state[key]) < 1e-9


def kernel(shape=(3, 3, 5, 7)):
    """One of ours, with zeros."""
    drawn = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    drawn.flat[::11] = 0
    return drawn


def to_torch(array):
    return torch.tensor(np.ascontiguousarray(np.transpose(array, (3, 2, 0, 1))))


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_noisy_weights_and_gradient(q):
    w, seed = kernel(), np.random.default_rng(4)
    xi = np.where(seed.random(w.shape) < 0.7, 1 / 0.7 - 1, -1).astype(np.float32)
    outer = seed.standard_normal(w.shape).astype(np.float32)
    ours, pull = jax.vjp(lambda w: perturb.bridgeout_perturb(w, xi, q), w)
    leaf = to_torch(w).requires_grad_()
    theirs = torch_noise.Bridgeout.apply(leaf, to_torch(xi), q)
    theirs.backward(to_torch(outer))
    np.testing.assert_allclose(theirs.detach(), to_torch(ours), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(leaf.grad, to_torch(pull(outer)[0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", ["filter", "kernel", "weight"])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (3, 3, 1, 4), (5, 3, 8, 2)])
@pytest.mark.parametrize("fraction", [0.3, 0.75])
def test_weakest(unit, shape, fraction):
    w = kernel(shape)
    ours = np.broadcast_to(perturb.weakest(jnp.asarray(w), fraction, unit), shape)
    theirs = torch_noise.weakest(to_torch(w), fraction, unit).expand(shape[3], shape[2], *shape[:2])
    assert np.array_equal(to_torch(ours), theirs)


def test_xi_is_centred_and_targeted():
    config = NoiseConfig(rate=0.3, target_fraction=0.5, target_unit="filter")
    torch.manual_seed(0)
    w = torch.randn(64, 16, 3, 3)
    xi = torch_noise.draw_xi(w, config)
    targeted = torch_noise.weakest(w, 0.5, "filter").expand_as(w)
    assert not xi[~targeted].any()
    drawn = xi[targeted].double().numpy()
    np.testing.assert_allclose(np.unique(drawn), [-1, 3 / 7], rtol=1e-6)
    # Of variance rate / (1 - rate).
    assert abs(drawn.mean()) < 4 * np.sqrt(3 / 7 / drawn.size)


def test_noise_is_on_spatial_kernels_in_training():
    network = torch_networks.create_network(settings("thin_resnet18", noise="batch_bridgeout"))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            noisy = isinstance(module, torch_noise.NoisyConv2d)
            assert noisy == (module.kernel_size == (3, 3))
    images = torch.randn(2, 3, 32, 32)
    clean = torch.nn.functional.conv2d(images, network.stem.weight, padding=1)
    assert torch.equal(network.stem.eval()(images), clean)
    assert not torch.equal(network.stem.train()(images), clean)


def fixed_xi(w_shape):
    """A draw that depends on the shape alone, for a kernel of ours."""
    keep = np.random.default_rng(w_shape).random(w_shape) < 0.7
    return jnp.asarray(np.where(keep, 1 / 0.7 - 1, -1), jnp.float32)


def our_steps(config, variables, images, labels, count):
    info = DATASETS[config.data.dataset]
    optimizer = create_optimizer(config.optimizer, epochs=1, steps_per_epoch=count)

    def weights(_, params):
        def disturb(_, w, chosen):
            return perturb.bridgeout_perturb(w, fixed_xi(w.shape), 1.5) if chosen else w

        return trees.map_named(disturb, params, trees.select(params, noise.spatial_kernels))

    noisy = config.noise.noise == "batch_bridgeout"
    regulariser = noise.Regulariser(weights=weights) if noisy else noise.none()
    recipe = train.Recipe(
        model_of(config), regulariser, optimizer, config.optimizer.label_smoothing
    )
    params = variables["params"]
    state = train.TrainState(
        jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params)
    )
    pixels = data.normalize(jnp.asarray(images), info.mean, info.std)
    batch = {"image": pixels, "label": jnp.asarray(labels), "index": jnp.arange(len(labels))}
    step = jax.jit(lambda state: train.train_step(state, batch, jax.random.key(0), recipe))
    losses = []
    for _ in range(count):
        state, metrics = step(state)
        losses.append(metrics["loss"])
    return losses, {"params": state.params, "batch_stats": state.batch_stats}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("noisy", ["none", "batch_bridgeout"])
@pytest.mark.parametrize("name", ["small_cnn", "thin_resnet18"])
def test_steps(name, noisy, channels_last, monkeypatch):
    config = settings(
        name, noise=noisy, augment=False, schedule="constant", label_smoothing=0.1, rate=0.3
    )
    variables, (images, labels) = draw(config), draw_images(config, 8)
    losses, after = our_steps(config, variables, images, labels, 2)
    monkeypatch.setattr(
        torch_noise, "draw_xi", lambda w, _: to_torch(fixed_xi(tuple(w.permute(2, 3, 1, 0).shape)))
    )
    network = loaded(config, variables)
    update = torch_training.create_update(config, Variant(channels_last), network=network)
    batch = torch.tensor(images), torch.tensor(labels).long()
    theirs = [float(update(*batch)) for _ in losses]
    np.testing.assert_allclose(theirs, np.array(losses), rtol=1e-4)
    state, before = network.state_dict(), torch_networks.state_of(variables)
    for key, ours in torch_networks.state_of(after).items():
        if not key.endswith("_var"):  # with Bessel's correction there
            assert relative(ours, state[key]) < 1e-4, key
            assert relative(ours - before[key], state[key] - before[key]) < 1e-3, key


def test_augmented_images_are_cut_out_of_padded_ones():
    images = torch.arange(1, 1 + 64 * 6 * 6, dtype=torch.int32).reshape(64, 6, 6, 1)
    torch.manual_seed(0)
    found = torch_training.augment(images, padding=2, flip=True)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    places = set()
    for number in range(64):
        matching = [
            (top, left, turned)
            for top in range(5)
            for left in range(5)
            for turned in (False, True)
            if torch.equal(
                padded[number, top : top + 6, left : left + 6].flip(1 if turned else ()),
                found[number],
            )
        ]
        assert len(matching) == 1
        places |= set(matching)
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(5))
    assert {turned for _, _, turned in places} == {False, True}
    assert torch_training.augment(images, padding=0, flip=False) is images


def test_normalised_as_ours():
    config = settings("small_cnn")
    info = DATASETS[config.data.dataset]
    images, _ = draw_images(config)
    mean, std = torch.tensor(info.mean), torch.tensor(info.std)
    ours = data.normalize(jnp.asarray(images), info.mean, info.std)
    theirs = torch_training.normalise(torch.tensor(images), mean=mean, std=std)
    np.testing.assert_allclose(theirs, np.asarray(ours), rtol=1e-6, atol=1e-6)


def test_a_pass_has_each_image_once():
    places = torch_training.batches(7, 3, device="cpu")
    for _ in range(3):
        drawn = torch.cat([next(places), next(places)])
        assert len(set(drawn.tolist())) == 6 and set(drawn.tolist()) <= set(range(7))


@pytest.mark.parametrize("variant", torch_training.variants("cpu"), ids=lambda v: v.text)
@pytest.mark.parametrize("noisy", ["none", "dropout", "batch_bridgeout"])
def test_variants_learn(variant, noisy):
    config = settings("small_cnn", dataset="digits", noise=noisy, batch_size=16, rate=0.1)
    images, labels = draw_images(config, 16)
    step = torch_training.create_step(config, variant, images, labels, device="cpu")
    first = float(step())
    torch_training.loop_of(step)(30)
    assert float(step()) < first / 2


@pytest.mark.parametrize("noisy", ["none", "dropout", "batch_bridgeout"])
def test_a_step_compiles_as_one_graph(noisy, monkeypatch):
    config = settings("small_cnn", noise=noisy, batch_size=8)
    batch = draw_images(config, 8)
    compile_ = torch.compile

    def traced(function, *, mode, fullgraph):
        # What is traced runs without the code generator: no compiler is needed, and no minute.
        return compile_(function, backend="aot_eager", fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", traced)
    if noisy == "batch_bridgeout":
        # Compiled, it is drawn in another order. So it is drawn as ever, and not used.
        draw_xi = torch_noise.draw_xi
        fixed = lambda w, drawn: torch.where(w > 0, 3 / 7, -1.0).add_(drawn, alpha=0)  # noqa: E731
        monkeypatch.setattr(torch_noise, "draw_xi", lambda w, n: fixed(w, draw_xi(w, n)))
    plain = torch_training.create_step(config, Variant(True), *batch, device="cpu")
    expected = [float(plain()) for _ in range(3)]
    compiled = torch_training.create_step(config, Variant(True, compile=True), *batch, device="cpu")
    np.testing.assert_allclose([float(compiled()) for _ in range(3)], expected, rtol=1e-4)


def test_the_seed_decides():
    config = settings("small_cnn", dataset="digits", batch_size=4, noise="dropout")
    images, labels = draw_images(config, 12)
    losses = []
    for seed in (0, 0, 1):
        seeded = override(config, seed=seed)
        step = torch_training.create_step(seeded, Variant(), images, labels, device="cpu")
        losses.append([float(step()) for _ in range(4)])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "values", [{"noise": "shakeout"}, {"noise_on": "stem"}, {"activation_target_fraction": 0.5}]
)
def test_what_pytorch_has_no_side_for_is_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        torch_networks.create_network(settings("small_cnn", **values))


def test_too_few_images():
    config = settings("small_cnn", batch_size=8)
    with pytest.raises(UsageError, match="batch_size is 8; it must be at most 4"):
        torch_training.create_step(config, Variant(), *draw_images(config, 4), device="cpu")


def test_variants_and_description():
    texts = [variant.text for variant in torch_training.variants("cuda")]
    assert texts[0] == "channels_last float32" and len(set(texts)) == 4
    found = torch_training.describe()
    assert found["torch"] == torch.__version__ and found["threads"] == 1 and found["device"]
