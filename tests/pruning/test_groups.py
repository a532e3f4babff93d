"""Filters of one channel group get one score, and die with all of its norms."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest

from bbo import compaction, pruning, trees
from bbo.compaction import channels
from bbo.models.create import create_model, kept_channels
from bbo.pruning.groups import groups_of, norms_of, tie_scores
from bbo.settings.sections import ModelConfig
from bbo.types import UsageError

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
NETWORKS = ("thin_resnet18", "wrn10_1", "resnet50", "small_cnn")


def network(name):
    """A narrow network whose every parameter is some number, and its groups."""
    model = create_model(
        ModelConfig(model=name, width=0.5 if name[0] != "r" else 0.125), num_classes=10
    )
    like = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    draw = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: jnp.asarray(draw.uniform(0.5, 1.5, x.shape) * 0.3, jnp.float32), like
    )
    return model, variables, channels.find_channels(model.apply, variables, IMAGES)


def test_scores_of_a_group_are_those_of_all_filters_that_put_it_out():
    _, variables, found = network("thin_resnet18")
    groups = groups_of(found.groups, "params")
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    tied = tie_scores(scored, groups, criterion="l2")
    assert tied.keys() == scored.keys()
    stream = ["stem/kernel", "stage1_block0/conv2/kernel", "stage1_block1/conv2/kernel"]
    together = np.sqrt(sum(np.square(scored[name]) for name in stream))
    for name in stream:
        np.testing.assert_allclose(tied[name], together, rtol=1e-6)
    inner = "stage1_block0/conv1/kernel"
    np.testing.assert_allclose(tied[inner], scored[inner], rtol=1e-6)
    summed = tie_scores(scored, groups, criterion="taylor")["stem/kernel"]
    np.testing.assert_allclose(summed, sum(scored[name] for name in stream), rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_every_group_is_removed_and_the_small_network_equals_the_masked_one(name):
    model, variables, found = network(name)
    groups = groups_of(found.groups, "params")
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    tied = tie_scores(scored, groups, criterion="l2")
    masks = pruning.masks(
        variables["params"],
        pruning.ranks(tied, scope="group"),
        pruning.drop_counts(tied, 0.5, scope="group"),
        norm=norms_of(groups),
    )
    masked = variables | {"params": pruning.apply_masks(variables["params"], masks)}
    cut = compaction.dead_channels(found, masked)
    small = compaction.smaller(masked, cut)
    kept = kept_channels(small["params"])
    assert kept == {
        name: count - count // 2 for name, count in kept_channels(variables["params"]).items()
    }
    rebuilt = create_model(
        ModelConfig(model=name, width=7.0), num_classes=10, kept=kept
    )  # the width no longer matters
    whole = masking.fast_jit(model.apply)
    expected = whole(masked, IMAGES)
    found_logits = masking.fast_jit(rebuilt.apply)(small, IMAGES)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found_logits / scale, expected / scale, atol=1e-5)
    assert np.abs(whole(variables, IMAGES) - expected).max() > 0.01 * scale


def test_by_layer_alone_a_residual_stream_does_not_shrink():
    _, variables, found = network("thin_resnet18")
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    masks = pruning.masks(
        variables["params"], pruning.ranks(scored), pruning.drop_counts(scored, 0.5)
    )
    masked = variables | {"params": pruning.apply_masks(variables["params"], masks)}
    small = compaction.smaller(masked, compaction.dead_channels(found, masked))
    kept, whole = kept_channels(small["params"]), kept_channels(variables["params"])
    assert kept["stage1_block0/conv1"] == whole["stage1_block0/conv1"] // 2
    assert kept["stage3_block1/conv2"] > whole["stage3_block1/conv2"] // 2


def test_nothing_to_remove_is_an_error():
    variables = {"params": {"kernel": jnp.ones((3, 3, 3, 4))}}
    convolve = lambda v, x: jax.lax.conv(x, v["params"]["kernel"].T, (1, 1), "SAME")  # noqa: E731
    found = channels.find_channels(convolve, variables, jnp.ones((1, 3, 8, 8)))
    groups = groups_of(found.groups, "params")
    with pytest.raises(UsageError, match="no channel can be removed; take scope 'local'"):
        tie_scores({"kernel": jnp.ones(4)}, groups, criterion="l2")


def test_a_norm_in_another_order_is_an_error():
    def turned(variables, x):
        params = variables["params"]
        y = (x @ params["first"]["kernel"]) * params["norm"]["scale"][::-1]
        return y @ params["second"]["kernel"]

    variables = {
        "params": {
            "first": {"kernel": jnp.ones((3, 4))},
            "norm": {"scale": jnp.ones(4)},
            "second": {"kernel": jnp.ones((4, 2))},
        }
    }
    found = channels.find_channels(turned, variables, jnp.ones((1, 3)))
    norms = norms_of(groups_of(found.groups, "params"))
    with pytest.raises(UsageError, match="norm has the channels of first/kernel in another order"):
        norms("first/kernel")
    assert set(trees.flatten(variables)) == {
        name for group in found.groups for name, _ in group.members
    }
