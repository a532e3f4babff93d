"""Pruned networks equal those of the authors' program: what is selected, and the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_names

from bbo import pruning, trees
from bbo.models.create import create_model
from bbo.pipeline.prunable import prunable
from bbo.settings.config import override
from experiments import presets as configs


def make_pruner(config, params, granularity):
    """Compiled ``(params, counts) -> pruned params``, and the counts by sparsity."""
    on = prunable(config, granularity)

    def score(params):
        criterion = config.pruning.criterion
        return pruning.scores(params, criterion=criterion, granularity=granularity, on=on)

    @jax.jit
    def prune(params, counts):
        ranked = pruning.ranks(score(params), scope=config.pruning.scope)
        masks = pruning.masks(params, ranked, counts, meaning=config.pruning.meaning)
        return pruning.apply_masks(params, masks)

    shapes = jax.eval_shape(score, params)
    return prune, lambda sparsity: pruning.drop_counts(shapes, sparsity, scope=config.pruning.scope)


def published(golden):
    return override(configs.published, model=golden.config.model)


def selected(config, params, granularity):
    chosen = trees.flatten(trees.select(params, prunable(config, granularity)))
    return {name for name, is_chosen in chosen.items() if is_chosen}


@pytest.mark.parametrize("name", torch_names.NETWORKS)
def test_the_published_protocol_selects_the_same_parameters(golden_dir, name):
    golden = torch_names.load(golden_dir, name)
    config, names = published(golden), torch_names.our_names(golden)
    params = torch_names.draw_variables(golden)["params"]
    eligible = {names[key].removeprefix("params/") for key in golden.record["eligible"]}
    assert selected(config, params, "filter") == eligible
    kernels = {key for key in eligible if key.endswith("/kernel")}
    assert selected(config, params, "weight") == kernels
    assert (eligible == kernels) == name.startswith("wrn")
    without = override(config, prune_norm_scales=False)
    assert selected(without, params, "filter") == kernels


@pytest.mark.slow
@pytest.mark.parametrize("name", torch_names.NETWORKS)
def test_golden_pruned_logits(golden_dir, name):
    golden = torch_names.load(golden_dir, name)
    config = published(golden)
    assert config.model == golden.config
    with jax.enable_x64(True):
        model = create_model(config.model, num_classes=golden.num_classes, dtype=jnp.float64)
        variables = jax.tree.map(jnp.asarray, torch_names.draw_variables(golden))
        images, logits = jnp.asarray(golden.images), jax.jit(model.apply)
        for granularity in ("filter", "weight"):
            prefix = f"logits_{granularity}_pruned_"
            recorded = {key: golden.arrays[key] for key in golden.arrays if key.startswith(prefix)}
            assert len(recorded) == 3
            prune, counts = make_pruner(config, variables["params"], granularity)
            for key, expected in recorded.items():
                pruned = prune(variables["params"], counts(float(key.removeprefix(prefix))))
                np.testing.assert_allclose(
                    logits(variables | {"params": pruned}, images), expected, rtol=1e-8
                )
