"""Groups found in small functions, their members written out by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from layers import conv

from bbo import types
from bbo.compaction import channels


def weights(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def removable(function, variables, *shapes):
    """Members of the removable groups, one position in a list for each channel."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    found = channels.find_channels(function, variables, *inputs)
    return [
        {
            member: positions.squeeze(1).tolist() if positions.shape[1] == 1 else positions.tolist()
            for member, positions in group.members.items()
        }
        for group in found.removable
        if group.size > 1
    ]


def test_dense():
    w = weights(a=(3, 4), bias=(4,), b=(4, 2))
    found = channels.find_channels(
        lambda w, x: jnp.tanh(x @ w["a"] + w["bias"]) @ w["b"], w, jnp.ones((5, 3))
    )
    group = next(group for group in found.groups if not group.fixed)
    every = [[0], [1], [2], [3]]
    assert {m: p.tolist() for m, p in group.members.items()} == {
        ("a", 1): every,
        ("b", 0): every,
        ("bias", 0): every,
    }
    assert group.readers == {("b", 0)}
    assert group.writers == [("a", 1), ("bias", 0)]
    assert (group.name, group.size) == ("a", 4)
    assert [(g.name, g.size, g.fixed) for g in found.groups if g.fixed] == [
        ("a", 3, "it is an axis of an input"),
        ("b", 2, "it is an axis of the result"),
    ]


def test_convolution_norm_and_residual_addition():
    w = weights(
        stem=(3, 3, 2, 4), a=(3, 3, 4, 3), scale=(3,), mean=(3,), b=(1, 1, 3, 4), out=(4, 2)
    )

    def function(w, x):
        x = conv(x, w["stem"])
        y = (conv(x, w["a"]) - w["mean"]) * w["scale"]
        return (x + conv(jnp.maximum(y, 0), w["b"])).mean((1, 2)) @ w["out"]

    stream, inner = [0, 1, 2, 3], [0, 1, 2]
    assert removable(function, w, (1, 5, 5, 2)) == [
        {("a", 2): stream, ("b", 3): stream, ("out", 0): stream, ("stem", 3): stream},
        {("a", 3): inner, ("b", 2): inner, ("mean", 0): inner, ("scale", 0): inner},
    ]


def test_concatenation_has_offsets():
    w = weights(a=(3, 2), b=(3, 4), c=(6, 5))
    assert removable(
        lambda w, x: jnp.concatenate([x @ w["a"], x @ w["b"]], 1) @ w["c"], w, (1, 3)
    ) == [
        {("a", 1): [0, 1], ("c", 0): [0, 1]},
        {("b", 1): [0, 1, 2, 3], ("c", 0): [2, 3, 4, 5]},
    ]


def test_flatten_repeats():
    w = weights(a=(1, 1, 3, 2), b=(8, 5))
    assert removable(lambda w, x: conv(x, w["a"]).reshape(7, 8) @ w["b"], w, (7, 2, 2, 3)) == [
        {("a", 3): [0, 1], ("b", 0): [[0, 2, 4, 6], [1, 3, 5, 7]]}
    ]


def test_grouped_convolution_lives_and_dies_in_groups():
    w = weights(a=(1, 1, 3, 4), grouped=(3, 3, 2, 6), b=(6, 5))
    assert removable(
        lambda w, x: conv(conv(x, w["a"]), w["grouped"], groups=2).sum((1, 2)) @ w["b"],
        w,
        (1, 4, 4, 3),
    ) == [
        {
            ("a", 3): [[0, 1], [2, 3]],
            ("b", 0): [[0, 1, 2], [3, 4, 5]],
            ("grouped", 3): [[0, 1, 2], [3, 4, 5]],
        }
    ]


def test_depthwise_convolution_with_two_filters_each():
    w = weights(a=(1, 1, 3, 2), depthwise=(3, 3, 1, 4), b=(4, 5))
    assert removable(
        lambda w, x: conv(conv(x, w["a"]), w["depthwise"], groups=2).sum((1, 2)) @ w["b"],
        w,
        (1, 4, 4, 3),
    ) == [{("a", 3): [0, 1], ("b", 0): [[0, 1], [2, 3]], ("depthwise", 3): [[0, 1], [2, 3]]}]


def test_shared_weights_tie_their_layers():
    w = weights(a=(3, 4), shared=(4, 4), b=(4, 2))
    every = [0, 1, 2, 3]
    assert removable(lambda w, x: x @ w["a"] @ w["shared"] @ w["shared"] @ w["b"], w, (1, 3)) == [
        {("a", 1): every, ("b", 0): every, ("shared", 0): every, ("shared", 1): every}
    ]


def attention(w, x):
    q, k, v = (jnp.einsum("nsc,chd->nshd", x, w[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("nshd,nthd->nhst", q, k) / np.sqrt(3).astype(np.float32))
    return jnp.einsum("nhst,nthd,hdc->nsc", weights, v, w["o"])


def test_attention_has_heads_and_dimensions_of_queries_and_values():
    w = weights(q=(6, 2, 3), k=(6, 2, 3), v=(6, 2, 4), o=(2, 4, 6))
    heads, inner, values = [0, 1], [0, 1, 2], [0, 1, 2, 3]
    assert removable(attention, w, (1, 5, 6)) == [
        {("k", 1): heads, ("o", 0): heads, ("q", 1): heads, ("v", 1): heads},
        {("k", 2): inner, ("q", 2): inner},
        {("o", 1): values, ("v", 2): values},
    ]


def test_squeeze_and_excite_gate():
    w = weights(a=(1, 1, 3, 4), down=(4, 2), up=(2, 4), b=(4, 5))

    def function(w, x):
        x = conv(x, w["a"])
        gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ w["down"]) @ w["up"])
        return (x * gate[:, None, None]).mean((1, 2)) @ w["b"]

    every = [0, 1, 2, 3]
    assert removable(function, w, (2, 4, 4, 3)) == [
        {("a", 3): every, ("b", 0): every, ("down", 0): every, ("up", 1): every},
        {("down", 1): [0, 1], ("up", 0): [0, 1]},
    ]


MOVED = {
    "slice": (lambda h: h[:, 1:3], [1, 2]),
    "pad": (lambda h: jnp.pad(h, ((0, 0), (1, 0))), [None, 0, 1, 2, 3]),
    "negative pad": (
        lambda h: lax.pad(h, 0.0, ((0, 0, 0), (-1, 0, 1))),
        [None, 1, None, 2, None, 3],
    ),
    "rev": (lambda h: h[:, ::-1], [3, 2, 1, 0]),
    "stack": (lambda h: jnp.stack([h, h], 2).sum(2), [0, 1, 2, 3]),
    "tile": (lambda h: jnp.tile(h, (1, 2)), [0, 1, 2, 3, 0, 1, 2, 3]),
    "roll": (lambda h: jnp.roll(h, 1, 1), [3, 0, 1, 2]),
    "split": (lambda h: jnp.split(h, 2, 1)[1], [2, 3]),
    "jit": (jax.jit(jnp.tanh), [0, 1, 2, 3]),
    "custom_jvp": (jax.nn.relu, [0, 1, 2, 3]),
    "remat": (jax.checkpoint(lambda h: jnp.sin(h)), [0, 1, 2, 3]),
    "optimization_barrier": (lax.optimization_barrier, [0, 1, 2, 3]),
}


@pytest.mark.parametrize("name", MOVED)
def test_channels_that_move(name):
    """``expected``: for each position of the next layer's input, the channel that it is."""
    move, expected = MOVED[name]
    w = weights(a=(3, 4), b=(len(expected), 2))
    found = channels.find_channels(lambda w, x: move(x @ w["a"]) @ w["b"], w, jnp.ones((5, 3)))
    places = {
        channel: sorted(i for i, source in enumerate(expected) if source == channel)
        for channel in range(4)
    }
    given = {}
    for group in found.groups:
        for one, channel in enumerate(group.members.get(("a", 1), [])):
            given[int(channel[0])] = list(map(int, group.members.get(("b", 0), [[]] * 4)[one]))
    assert given == places


@jax.custom_vjp
def clipped_gradient(x):
    return jnp.sin(x)


clipped_gradient.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.clip(g, -1.0, 1.0),))


def recurrent(w, x):
    def step(h, x):
        h = jnp.tanh(x @ w["a"] + h @ w["h"])
        return h, h

    return lax.scan(step, jnp.zeros((5, 4)), x)[1][-1] @ w["b"]


def repeated(w, x):
    _, h = lax.while_loop(
        lambda state: state[0] < 3,
        lambda state: (state[0] + 1, jnp.sin(state[1] @ w["h"])),
        (0, x[0] @ w["a"]),
    )
    return h @ w["b"]


def branched(w, x):
    h = x[0] @ w["a"]
    return lax.cond(x[0, 0, 0] > 0, lambda h: h @ w["h"], lambda h: h, h) @ w["b"]


def with_custom_vjp(w, x):
    return clipped_gradient(clipped_gradient(x[0] @ w["a"]) @ w["h"] + x[0] @ w["a"]) @ w["b"]


@pytest.mark.parametrize("function", [recurrent, repeated, branched, with_custom_vjp])
def test_weights_within_loops_and_branches(function):
    w = weights(a=(3, 4), h=(4, 4), b=(4, 2))
    every = [0, 1, 2, 3]
    assert removable(function, w, (6, 5, 3)) == [
        {("a", 1): every, ("b", 0): every, ("h", 0): every, ("h", 1): every}
    ]


def test_layers_stacked_and_scanned():
    w = weights(up=(3, 4, 2), down=(3, 2, 4), out=(4, 5))

    def function(w, x):
        step = lambda x, layer: (x + jnp.tanh(x @ layer["up"]) @ layer["down"], None)  # noqa: E731
        return lax.scan(step, x, {name: w[name] for name in ("up", "down")})[0] @ w["out"]

    assert removable(function, w, (7, 4)) == [{("down", 1): [0, 1], ("up", 2): [0, 1]}]


class Small(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


def test_nnx():
    graph, state = nnx.split(nnx.eval_shape(lambda: Small(nnx.Rngs(0))))
    every = [0, 1, 2, 3]
    members = [("conv/bias", 0), ("conv/kernel", 3), ("head/kernel", 0)]
    members += [(f"norm/{name}", 0) for name in ("bias", "mean", "scale", "var")]
    assert removable(lambda state, x: nnx.merge(graph, state)(x), state, (2, 8, 8, 3)) == [
        dict.fromkeys(members, every)
    ]


def test_equinox():
    model = eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 4, 2, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    every = [0, 1, 2, 3]
    assert removable(lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x), arrays, (5, 3)) == [
        dict.fromkeys(
            [("layers/0/bias", 0), ("layers/0/weight", 0), ("layers/1/weight", 1)], every
        ),
        dict.fromkeys(
            [("layers/1/bias", 0), ("layers/1/weight", 0), ("layers/2/weight", 1)], every
        ),
    ]


def test_cuts_that_are_refused():
    w = weights(a=(3, 4), b=(4, 2))
    found = channels.find_channels(lambda w, x: x @ w["a"] @ w["b"], w, jnp.ones(3))
    fixed, hidden = found.groups[0], found.groups[1]
    with pytest.raises(types.UsageError, match="of a can be removed: it is an axis of an input"):
        channels.cut_of([fixed], [np.array([True, False, False])])
    with pytest.raises(types.UsageError, match="all 4 channels of a are removed; leave one"):
        channels.cut_of([hidden], [np.ones(4, bool)])
    assert channels.cut_of([fixed], [np.zeros(3, bool)]) == {}
    cut = channels.cut_of([hidden], [np.array([False, True, False, True])])
    assert {member: positions.tolist() for member, positions in cut.items()} == {
        ("a", 1): [1, 3],
        ("b", 0): [1, 3],
    }
