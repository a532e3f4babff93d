"""Steps that really remove filters are those of the pruned network, and take their turns."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bbo import compaction, noise, trees
from bbo.noise.regulariser import Regulariser
from bbo.noise.schedule import draw_removed
from bbo.pipeline.compiled import model_of
from bbo.pipeline.prunable import pruned_at, removed_at
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.noise_section import NoiseConfig
from bbo.training.step import noisy_forward
from bbo.types import UsageError

CONFIG = override(
    ExperimentConfig(),
    granularity=("filter",),
    noise="nested_dropping",
    removed_shares=(0.5, 0.75),
    clean_share=0.5,
)
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))


def build(config):
    return lambda kept: model_of(config, kept=kept)


@pytest.mark.parametrize("share", [0.3, 0.75])
@pytest.mark.parametrize(
    ("model", "width", "scope"),
    [
        ("small_cnn", 1.0, "local"),
        ("small_vgg", 0.25, "local"),
        ("thin_resnet20", 0.5, "local"),
        ("thin_resnet20", 0.5, "group"),
        ("wrn10_1", 0.5, "group"),
    ],
)
def test_it_is_the_masked_network_and_its_gradient(model, width, scope, share):
    config = override(CONFIG, model=model, width=width, scope=scope)
    network = model_of(config)
    variables = networks.fill(jax.eval_shape(network.init, jax.random.key(0), IMAGES))
    prune = pruned_at(config, network)
    masking = Regulariser(weights=lambda rng, params: prune(params, share))
    removing = Regulariser(network=removed_at(config, network, share, build(config)))

    def loss(params, regulariser):
        held = variables | {"params": params}
        batch = {"image": IMAGES, "index": jnp.arange(4)}
        logits, _ = noisy_forward(network, regulariser, held, batch, jax.random.key(1))
        return jnp.sum(jnp.sin(logits)), logits

    (masked, removed) = (
        jax.jit(jax.value_and_grad(lambda params, r=regulariser: loss(params, r), has_aux=True))(
            variables["params"]
        )
        for regulariser in (masking, removing)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), masked, removed
    )
