"""Axes of channels that are split into several: which of them carries the channels on."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from jax import lax
from layers import conv

from bbo import compaction, types
from bbo.compaction import channels

TOKENS, IMAGES = jnp.ones((2, 5, 6)), jnp.ones((2, 4, 4, 6))


def attended(q, k, v):
    """Of [n, t, h, d]."""
    weights = jax.nn.softmax(jnp.einsum("nshd,nthd->nhst", q, k))
    return jnp.einsum("nhst,nthd->nshd", weights, v)


def heads_beside_the_batch(w, x):
    n, t, _ = x.shape

    def heads(name):
        return (x @ w[name]).reshape(n, t, 4, 3).transpose(0, 2, 1, 3).reshape(n * 4, t, 3)

    weights = jax.nn.softmax(heads("q") @ heads("k").swapaxes(1, 2))
    out = (weights @ heads("v")).reshape(n, 4, t, 3).transpose(0, 2, 1, 3)
    return out.reshape(n, t, 12) @ w["o"]


def fused(w, x):
    n, t, _ = x.shape
    q, k, v = jnp.moveaxis((x @ w["qkv"]).reshape(n, t, 3, 4, 3), 2, 0)
    return attended(q, k, v).reshape(n, t, 12) @ w["o"]


def fused_in_each_head(w, x):
    n, t, _ = x.shape
    q, k, v = jnp.split((x @ w["qkv"]).reshape(n, t, 4, 9), 3, -1)
    return attended(q, k, v).reshape(n, t, 12) @ w["o"]


def generated(w, x):
    h = jax.nn.relu(x[:, 0] @ w["a"]).reshape(x.shape[0], 4, 4, 8)
    h = jax.nn.relu(lax.conv_transpose(h, w["up"], (2, 2), "SAME"))
    return h.mean((1, 2)) @ w["o"]


def generated_channels_first(w, x):
    h = jax.nn.relu(x[:, 0] @ w["a"]).reshape(x.shape[0], 8, 4, 4)
    return lax.conv(h, w["oihw"], (1, 1), "SAME").mean((2, 3))


def depth_to_space(w, x):
    h = conv(x, w["a"])
    n, height, width, _ = h.shape
    h = h.reshape(n, height, width, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    return conv(h.reshape(n, 2 * height, 2 * width, 4), w["k"])


def pixel_shuffle(w, x):
    h = conv(x, w["a"])
    n, height, width, _ = h.shape
    h = h.reshape(n, height, width, 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return conv(h.reshape(n, 2 * height, 2 * width, 4), w["k"])


def upsampled(w, x):
    h = jax.image.resize(conv(x, w["a"]), (len(x), 8, 8, 16), "nearest")
    return conv(jnp.repeat(jnp.repeat(h, 2, 1), 2, 2), w["k16"])


PIXELS = {"a": (3, 3, 6, 16), "k": (3, 3, 4, 5)}
SPLIT = {
    "heads beside the batch": (
        heads_beside_the_batch,
        dict.fromkeys("qkv", (6, 12)) | {"o": (12, 2)},
        TOKENS,
        {("k", 1): (4, 3), ("o", 0): (4, 3), ("q", 1): (4, 3), ("v", 1): (4, 3)},
    ),
    "fused": (
        fused,
        {"qkv": (6, 36), "o": (12, 2)},
        TOKENS,
        {("qkv", 1): (4, 9), ("o", 0): (4, 3)},
    ),
    "fused in each head": (
        fused_in_each_head,
        {"qkv": (6, 36), "o": (12, 2)},
        TOKENS,
        {("qkv", 1): (4, 9), ("o", 0): (4, 3)},
    ),
    "generated": (
        generated,
        {"a": (6, 128), "up": (3, 3, 8, 3), "o": (3, 2)},
        TOKENS,
        {("a", 1): (8, 16), ("up", 2): (8, 1)},
    ),
    "generated, channels first": (
        generated_channels_first,
        {"a": (6, 128), "oihw": (2, 8, 3, 3)},
        TOKENS,
        {("a", 1): (8, 16), ("oihw", 1): (8, 1)},
    ),
    "depth to space": (depth_to_space, PIXELS, IMAGES, {("a", 3): (4, 4), ("k", 2): (4, 1)}),
    "pixel shuffle": (pixel_shuffle, PIXELS, IMAGES, {("a", 3): (4, 4), ("k", 2): (4, 1)}),
    "upsampled": (
        upsampled,
        {"a": (3, 3, 6, 16), "k16": (3, 3, 16, 2)},
        IMAGES,
        {("a", 3): (16, 1), ("k16", 2): (16, 1)},
    ),
}
"""Function, shapes of weights, inputs, and [channels, positions of each] of the first group."""


def random(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("name", SPLIT)
def test_channels_of_parts(name):
    function, shapes, inputs, expected = SPLIT[name]
    with jax.enable_x64(True):
        w = masking.draw({n: jax.ShapeDtypeStruct(s, jnp.float64) for n, s in shapes.items()})
        x = random(inputs.shape, 1)
        groups = [g for g in channels.find_channels(function, w, x).removable if g.size > 1]
        assert {m: p.shape for m, p in groups[0].members.items()} == expected
        masking.check(function, w, x, seeds=range(2), tolerance=1e-12)
        cut = channels.cut_of(groups[:1], [np.arange(groups[0].size) == 1])
        zeroed = masking.masked(w, {m: p for m, p in cut.items() if m not in groups[0].readers})
        small = compaction.compact(function, w, x, removed=cut)
        for batch in (1, 4):
            more = random((batch, *x.shape[1:]), batch)
            given = small.function(small.variables, more)
            assert masking.difference(function(zeroed, more), given) <= 1e-12


def test_channels_that_are_others_for_other_inputs_are_refused():
    def function(w, x):
        h = x @ w["a"]
        return (h if x.shape[0] < 3 else jnp.flip(h, 1) + h) @ w["b"]

    w = {"a": jnp.ones((6, 4)), "b": jnp.ones((4, 2))}
    x = jnp.ones((2, 6))
    (group,) = channels.find_channels(function, w, x).removable
    cut = channels.cut_of([group], [np.arange(4) == 1])
    small = compaction.compact(function, w, x, removed=cut)
    assert small.function(small.variables, x).shape == (2, 2)
    with pytest.raises(types.UsageError, match="a channel of a is removed in part"):
        small.function(small.variables, jnp.ones((3, 6)))


def heads(w, x):
    q, k, v = ((x @ w[name]).reshape(*x.shape[:2], 2, 4) for name in "qkv")
    return attended(q, k, v).reshape(*x.shape[:2], 8) @ w["o"]


HEADS = {name: random((6, 8), i) for i, name in enumerate("qkv")} | {"o": random((8, 3), 3)}


def test_whole_heads_and_numbers_within_them():
    first, others = (
        [group for group in channels.find_channels(heads, HEADS, TOKENS, parts=parts).removable]
        for parts in ({}, {(2, 4): 1})
    )
    assert [[m for m, _ in group.members] for group in first] == [["k", "o", "q", "v"]]
    assert first[0].members["v", 1].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    within = [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [{m: p.tolist() for m, p in group.members.items()} for group in others] == [
        {("k", 1): within, ("q", 1): within},
        {("o", 0): within, ("v", 1): within},
    ]


def test_heads_and_numbers_within_them_removed_one_after_the_other():
    with jax.enable_x64(True):
        w, x = jax.tree.map(jnp.float64, HEADS), random((3, 5, 6), 7)
        dead = {"q": [4, 5, 6, 7, 1], "k": [4, 5, 6, 7], "v": [4, 5, 6, 7, 0, 2]}
        for name, positions in dead.items():
            w = masking.masked(w, {(name, 1): np.array(positions)})
        within = compaction.compact(heads, w, x, parts={(2, 4): 1})
        assert {m: p.tolist() for m, p in within.cut.items()} == {
            ("q", 1): [1, 5],
            ("k", 1): [1, 5],
            ("v", 1): [0, 2, 4, 6],
            ("o", 0): [0, 2, 4, 6],
        }
        twice = compaction.compact(within.function, within.variables, x)
        shapes = {"q": (6, 3), "k": (6, 3), "v": (6, 2), "o": (2, 3)}
        assert jax.tree.map(jnp.shape, twice.variables) == shapes
        for batch in (1, 3):
            given = twice.function(twice.variables, x[:batch])
            assert masking.difference(heads(w, x[:batch]), given) <= 1e-12


@pytest.mark.parametrize(
    "parts, message",
    [({(4, 2): 0}, r"into \(4, 2\); there are \[\(2, 4\)\]"), ({(2, 4): 2}, "in 0..1")],
)
def test_parts_that_there_are_not(parts, message):
    with pytest.raises(types.UsageError, match=message):
        channels.find_channels(heads, HEADS, TOKENS, parts=parts)
