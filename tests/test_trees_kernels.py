"""What is taken for the kernel of a convolution, and what can be worked on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise, pruning, trees
from bbo.types import UsageError

ONES = jnp.ones


@pytest.mark.parametrize(
    ("name", "leaf", "taken"),
    [
        ("conv/kernel", ONES((3, 3, 4, 8)), True),
        ("kernel", ONES((1, 7, 4, 8), jnp.bfloat16), True),
        ("conv3d/kernel", np.ones((3, 3, 3, 4, 8)), True),
        ("conv2_d/w", ONES((3, 3, 4, 8)), True),
        ("query/kernel", ONES((1, 1, 4, 8)), True),
        ("conv1d/kernel", ONES((3, 4, 8)), False),
        ("kernel", ONES((3, 3, 0, 8)), False),
        ("conv/weight", ONES((8, 4, 3, 3)), False),
        ("pos_embed", ONES((1, 8, 8, 8)), False),
        ("batch_norm/scale", ONES((1, 1, 1, 8)), False),
        ("blocks/query/kernel", ONES((12, 64, 4, 16)), False),
        ("MultiHeadDotProductAttention_0/out/kernel", ONES((12, 4, 16, 64)), False),
        ("attn/k", ONES((12, 64, 4, 16)), False),
        ("out/kernel", ONES((3, 3, 4, 8)), True),
        ("kernel", ONES((3, 3, 4, 8), jnp.int8), False),
        ("kernel", ONES((3, 3, 4, 8), bool), False),
        ("kernel", ONES((3, 3, 4, 8), jnp.complex64), False),
        ("kernel", jax.random.split(jax.random.key(0), (3, 3, 1, 2)), False),
        ("kernel", jax.nn.relu, False),
        ("kernel", 1.0, False),
    ],
)
def test_what_is_taken_for_the_kernel_of_a_convolution(name, leaf, taken):
    assert trees.is_convolution(name, leaf) is taken


def test_only_spatial_kernels_are_perturbed_by_default():
    params = {
        "conv": {"kernel": ONES((3, 3, 2, 4)), "mask": ONES((3, 3, 2, 4), bool)},
        "shortcut": {"kernel": ONES((1, 1, 2, 4))},
        "row": {"kernel": ONES((1, 3, 2, 4))},
        "pos_embedding": ONES((1, 4, 4, 4)),
    }
    selected = trees.flatten(trees.select(params, noise.spatial_kernels))
    assert [name for name, chosen in selected.items() if chosen] == ["conv/kernel", "row/kernel"]
    kernels = ["conv/kernel", "row/kernel", "shortcut/kernel"]
    assert list(pruning.eligible(params)) == kernels


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (ONES((3, 3, 2, 4), bool), r"bool\[3,3,2,4\]"),
        (ONES((3, 3, 2, 4), jnp.int8), r"int8\[3,3,2,4\]"),
        (ONES((2, 4), jnp.complex64), r"complex64\[2,4\]"),
        (jax.random.split(jax.random.key(0), 2), r"key<fry>\[2\]"),
        (jax.nn.relu, "a custom_jvp"),
        (2, "a int"),
        (ONES((0, 4)), r"float32\[0,4\]"),
    ],
)
def test_what_is_selected_has_to_be_of_floating_point(leaf, kind):
    params = {"conv": {"kernel": ONES((3, 3, 2, 4)), "other": leaf}}
    told = f"^conv/other is {kind}, and only arrays of real floating-point numbers can be"
    with pytest.raises(UsageError, match=f"{told} perturbed; select others$"):
        noise.dropconnect(rate=0.5, on="conv").weights(jax.random.key(0), params)
    for criterion in ("l2", "geometric_median"):
        with pytest.raises(UsageError, match=f"{told} pruned; select others$"):
            pruning.scores(params, criterion=criterion, granularity="filter", on="conv")


def test_no_kernel_by_name_is_an_error_that_says_what_to_do():
    told = (
        r"^no parameter is among the convolutions, as told by names and shapes; select others "
        r"\(on='attention.\*kernel\$'\) or describe the network \(channels=find_channels\(...\)\); "
        "there is 1 parameter: pos_embedding$"
    )
    with pytest.raises(UsageError, match=told):
        pruning.eligible({"pos_embedding": ONES((1, 2, 2, 3))})
