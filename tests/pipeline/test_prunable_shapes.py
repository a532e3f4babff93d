"""Whatever cannot be pruned is refused on shapes, before any training; the rest is pruned."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bbo import pruning, trees
from bbo.pipeline import prunable
from bbo.pipeline.configured import model_of
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError

FILTERS = override(ExperimentConfig(), granularity=("filter",), noise="none", conv_bias=True)


def params_of(config):
    model = model_of(config)
    images = jnp.zeros((1, *config.data.info.image_shape))
    return model, networks.fill(jax.eval_shape(model.init, jax.random.key(0), images))["params"]


def test_a_convolution_without_a_norm_of_its_own_goes_with_its_bias_alone():
    config = override(FILTERS, model="wrn10_1", width=0.25, prune_on="stage1_block0/conv2/kernel")
    model, params = params_of(config)
    prunable.check_selections(config, model, params)
    on = prunable.prunable(config, "filter")
    scored = pruning.scores(params, criterion="l2", granularity="filter", on=on)
    masks = trees.flatten(prunable.pruner_of(config, params, scored).masks(0.5))
    dropped = {name: np.flatnonzero(~mask).size for name, mask in masks.items() if not mask.all()}
    assert dropped == {"stage1_block0/conv2/bias": 2, "stage1_block0/conv2/kernel": 2}


def test_norms_that_are_there_are_named():
    norms = prunable.OwnNorms(frozenset({"a/conv_norm/scale"}))
    assert norms("a/conv/kernel") == "a/conv_norm" and norms("b/conv/kernel") == ()
    assert hash(norms) == hash(prunable.OwnNorms(frozenset({"a/conv_norm/scale"})))


def test_filters_that_are_classes_stay():
    config = override(FILTERS, width=0.25, prune_on="kernel", granularity=("filter", "weight"))
    model, params = params_of(config)
    prunable.check_selections(config, model, params)
    selected = {
        unit: list(pruning.eligible(params, prunable.prunable(config, unit)))
        for unit in ("filter", "weight")
    }
    convolutions = [f"conv{number}/kernel" for number in (1, 2, 3, 4)]
    assert selected == {"filter": convolutions, "weight": [*convolutions, "head/kernel"]}
    assert prunable.left_out(config, params) == ["head/kernel"]
    assert prunable.left_out(override(config, prune_on=""), params) == []
    assert prunable.left_out(override(config, granularity=("weight",)), params) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prune_on": "head"}, "'head', and filters of head/bias, head/kernel are classes"),
        ({"prune_on": "head", "scope": "group"}, "filters of head/bias, head/kernel are classes"),
        (
            {"model": "wrn10_1", "prune_on": "conv2/kernel", "scope": "group"},
            "stage1_block0/conv2/kernel: stem/kernel is not selected",
        ),
        ({"scope": "group", "width": 0.02}, "conv1/kernel: it is the only one"),
    ],
)
def test_what_cannot_be_pruned_is_refused(changes, told):
    config = override(FILTERS, **changes)
    with pytest.raises(UsageError, match=told):
        prunable.check_selections(config, *params_of(config))
