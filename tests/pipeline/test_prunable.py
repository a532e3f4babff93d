"""What nested dropping drops in training is what is pruned later, in whole channel groups too."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bbo import pruning
from bbo.compaction.channels import find_channels
from bbo.noise.configured import create_regulariser
from bbo.noise.regulariser import none
from bbo.noise.schedule import strength_schedule
from bbo.pipeline.configured import model_of
from bbo.pipeline.prunable import pruned_at
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError

CONFIG = override(
    ExperimentConfig(),
    model="thin_resnet20",
    width=0.25,
    granularity=("filter",),
    noise="nested_dropping",
)


@pytest.mark.parametrize(
    ("scope", "meaning"), [("local", "clean"), ("local", "published"), ("group", "clean")]
)
def test_it_is_the_pruning_of_the_curve(scope, meaning):
    config = override(CONFIG, scope=scope, meaning=meaning)
    model, images = model_of(config), jnp.zeros((1, 8, 8, 1))
    variables = networks.fill(jax.eval_shape(model.init, jax.random.key(0), images))
    params, channels = variables["params"], None
    if scope == "group":
        channels = find_channels(model.apply, variables, images).within("params")
    pruner = pruning.prepare(params, scope=scope, meaning=meaning, channels=channels)
    drop = jax.jit(pruned_at(config, model))
    for share in (0.0, 0.25, 0.5, 0.75):
        expected = pruner.prune(share)
        jax.tree.map(np.testing.assert_array_equal, drop(params, jnp.float32(share)), expected)


def test_strength_is_a_factor_on_rate_or_share():
    params = {"kernel": jnp.ones((3, 3, 8, 8))}
    schedule = strength_schedule(override(CONFIG, ramp_up=0.5).noise, 100)

    def kept(noise, step):
        config = override(ExperimentConfig(), noise=noise, rate=0.5, ramp_up=0.5).noise
        made = create_regulariser(config, strength=schedule(step))
        return float(jnp.mean(made.weights(jax.random.key(0), params)["kernel"] != 0))

    assert kept("dropconnect", 0) == 1.0
    assert create_regulariser(override(CONFIG, noise="none").noise, strength=0.5) == none()
    half = create_regulariser(
        override(CONFIG, noise="dropconnect", rate=0.5).noise, strength=0.5
    ).weights(jax.random.key(0), params)["kernel"]
    assert 0.65 < float(jnp.mean(half != 0)) < 0.85
    assert 0.65 < kept("dropconnect", 25) < 0.85 and 0.4 < kept("dropconnect", 50) < 0.6
    shares = []
    made = create_regulariser(
        CONFIG.noise, strength=schedule(25), prune=lambda params, share: shares.append(share)
    )
    for seed in range(50):
        made.weights(jax.random.key(seed), params)
    assert 0.25 < max(map(float, shares)) < CONFIG.noise.target_fraction / 2


def test_no_order_to_drop_in():
    with pytest.raises(UsageError, match="criterion 'taylor' is no order"):
        override(CONFIG, criterion="taylor")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ascent": 0.1, "clean_share": 0.5}, "ascent needs the gradient of the network without"),
        ({"clean_in": "each_step"}, "clean_in is each_step, but clean_share is 0"),
        ({"noise": "bridgeout", "clean_in": "each_step", "clean_share": 0.5}, "by example"),
        ({"noise": "bridgeout", "distill": 0.5}, "by example"),
        ({"ramp_up": 0.7, "ramp_down": 0.5}, "ramp_down is 0.5"),
        ({"noise_from": 0.7, "ramp_up": 0.5}, "ramp_up is 0.5"),
    ],
)
def test_settings_of_when_that_do_not_fit(changes, told):
    with pytest.raises(UsageError, match=told):
        override(CONFIG, **changes)
