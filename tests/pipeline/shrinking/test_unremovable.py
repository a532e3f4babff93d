"""What cannot be removed of networks, and why."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from layers import conv

from bbo import pruning, trees
from bbo.compaction import channels
from bbo.compaction.staying import ALIVE, OTHERS, Staying
from bbo.pipeline.shrinking.unremovable import (
    NOT_SELECTED,
    TOGETHER,
    staying_filters,
    staying_text,
    zero_filters,
)


def groups_of(function, variables, image):
    found = channels.find_channels(function, variables, image)
    return found.within("params").groups


def shapes(**kernels):
    made = {name: {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for name, s in kernels.items()}
    return {"params": made}


IMAGE = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
VARIABLES = shapes(stem=(3, 3, 2, 6), a=(3, 3, 6, 5), b=(1, 1, 5, 6), out=(3, 3, 6, 3))
KERNELS = {f"{name}/kernel" for name in VARIABLES["params"]}


def network(variables, x, follow=jax.nn.relu):
    """A residual block whose result are images."""
    w = {name: leaf["kernel"] for name, leaf in variables["params"].items()}
    x = conv(x, w["stem"])
    return conv(x + conv(follow(conv(x, w["a"])), w["b"]), w["out"])


GROUPS = groups_of(network, VARIABLES, IMAGE)
RESULT = Staying("out/kernel", 3, 3, "it is an axis of the result")


@pytest.mark.parametrize("name", ["small_cnn", "vgg16", "thin_resnet18", "resnet50", "wrn16_4"])
def test_of_bundled_networks_nothing(name):
    model, shape = networks.build(name, width=0.125), networks.image_shape(name, count=1)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    groups = groups_of(model.apply, variables, jnp.zeros(shape))
    selected = pruning.eligible(variables["params"])
    assert staying_filters(groups, variables["params"], selected) == []
    assert staying_text([]) == "Filters that cannot be removed: none"


def test_the_result_stays():
    assert staying_filters(GROUPS, VARIABLES["params"], KERNELS) == [RESULT]


def test_what_is_not_selected_keeps_what_it_shares_channels_with():
    selected = {"a/kernel", "b/kernel"}
    found = staying_filters(GROUPS, VARIABLES["params"], selected)
    assert sorted(found) == [
        Staying("b/kernel", 6, 6, "stem/kernel put them out too, and stay whole"),
        RESULT,
        Staying("stem/kernel", 6, 6, NOT_SELECTED),
    ]


def test_of_a_kernel_some_filters_can_be_fixed():
    def first_three_are_sorted(variables, x):
        w = {name: leaf["kernel"] for name, leaf in variables["params"].items()}
        h = conv(x, w["stem"])
        return conv(jnp.concatenate([jnp.sort(h[..., :3]), h[..., 3:]], -1), w["out"]).sum()

    groups = groups_of(first_three_are_sorted, VARIABLES, IMAGE)
    (stem,) = [
        found
        for found in staying_filters(groups, VARIABLES["params"], KERNELS)
        if found.name == "stem/kernel"
    ]
    assert (stem.channels, stem.of) == (3, 6) and "sort" in stem.reason


def test_filters_that_are_zero_and_still_there():
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), VARIABLES["params"])
    params["a"]["kernel"][..., :2] = 0
    params["b"]["kernel"][..., 1] = 0
    params["out"]["kernel"][..., 0] = 0  # the result stays whatever is zero
    assert trees.names(params) == sorted(KERNELS)
    function = functools.partial(network, follow=jnp.cos)
    found = channels.find_channels(function, VARIABLES, IMAGE)
    assert sorted(zero_filters(found, {"params": params}, {})) == [
        Staying("a/kernel", 2, 5, f"{ALIVE}: cos makes of zero what is not"),
        Staying("b/kernel", 1, 6, f"{OTHERS} (params/stem/kernel){TOGETHER}"),
    ]


def test_text_has_a_line_for_each_reason():
    found = [Staying("a/kernel", 1, 5, "one"), RESULT, Staying("b/kernel", 6, 6, "one")]
    assert staying_text(found).splitlines() == [
        "Filters that cannot be removed:",
        "  one: a/kernel (1 of 5), b/kernel (6)",
        "  it is an axis of the result: out/kernel (3)",
    ]
