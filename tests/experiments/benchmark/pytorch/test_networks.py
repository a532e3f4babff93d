"""The networks of the PyTorch side are ours: names, shapes, logits, sites of dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from torch_side import draw, loaded, model_of, relative, settings, shapes_of

from bbo.models.create import create_model

torch = pytest.importorskip("torch")

from experiments.benchmark.pytorch import networks as torch_networks  # noqa: E402

MODELS = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "thin_resnet18", "thin_resnet34"),
    *("resnet18", "resnet34", "resnet50", "wrn10_2", "wrn16_4", "small_cnn"),
)
"""All of them, or one of each rule."""
SHAPES = "vgg11", "thin_resnet18", "resnet50", "wrn10_2", "small_cnn"
"""One of each kind of layer."""


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
