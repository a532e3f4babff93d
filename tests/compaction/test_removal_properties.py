"""Whatever the network: a random one without its dead channels equals the masked one."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import odd_trees
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from layers import conv

from bbo import compaction
from bbo.types import UsageError

CHANNELS, LAYERS = 4, 5
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def networks(draw):
    """A function of variables and images, and shapes of its variables.

    Layers are drawn one after the other: convolutions with and without norm, of earlier outputs, of
    sums of two, or of two concatenated; in the end all of them together.
    """
    plan, shapes, widths = [], {}, [3]
    for number in range(draw(st.integers(1, LAYERS))):
        kind = draw(st.sampled_from(["one", "sum", "concat"]))
        first, second = (draw(st.integers(0, len(widths) - 1)) for _ in range(2))
        if kind == "sum" and widths[first] != widths[second]:
            kind = "concat"
        read = widths[first] + (widths[second] if kind == "concat" else 0)
        width = draw(st.sampled_from([CHANNELS, CHANNELS, 3, 1]))
        has_norm, size = draw(st.booleans()), draw(st.sampled_from([1, 3]))
        shapes[f"{number}/kernel"] = (size, size, read, width)
        if has_norm:
            shapes |= {f"{number}/{name}": (width,) for name in ("mean", "var", "scale")}
        shapes[f"{number}/bias"] = (width,)
        plan.append((kind, first, second, has_norm))
        widths.append(width)
    shapes["head"] = (sum(widths[1:]), 2)

    def function(variables, images):
        outputs = [images]
        for number, (kind, first, second, has_norm) in enumerate(plan):
            x = outputs[first]
            x = x + outputs[second] if kind == "sum" else x
            x = jnp.concatenate([x, outputs[second]], -1) if kind == "concat" else x
            x = conv(x, variables[f"{number}/kernel"])
            if has_norm:
                mean, var, scale = (variables[f"{number}/{n}"] for n in ("mean", "var", "scale"))
                x = (x - mean) * lax.rsqrt(var + 1e-5) * scale
            outputs.append(jax.nn.relu(x + variables[f"{number}/bias"]))
        joined = jnp.concatenate(outputs[1:], axis=-1)
        return joined.mean((1, 2)) @ variables["head"]

    return function, {n: jax.ShapeDtypeStruct(x, jnp.float64) for n, x in shapes.items()}


# Each is compiled anew.
@settings(max_examples=settings().max_examples // 5)
@given(network=networks(), seed=SEEDS)
def test_a_random_network_without_dead_channels_equals_the_masked_one(network, seed):
    with jax.enable_x64(True):
        function, like = network
        variables = masking.draw(like, seed)
        images = jnp.asarray(np.random.default_rng(seed).standard_normal((2, 4, 4, 3)))
        # Channels of which a shift without a weight is left are not dead, nor need all others be.
        small = masking.check(
            function, variables, images, seeds=[seed], tolerance=1e-12, all_dead=False
        )
        sizes = [sum(x.size for x in jax.tree.leaves(of)) for of in (small.variables, variables)]
        assert sizes[0] <= sizes[1]


@given(network=networks(), seed=SEEDS)
def test_whatever_whole_channels_are_cut_the_rest_fits_together(network, seed):
    with jax.enable_x64(True):
        function, like = network
        variables, images = masking.draw(like, seed), jnp.zeros((2, 4, 4, 3))
        found = compaction.find_channels(function, variables, images)
        units = masking.random_units(found.removable, np.random.default_rng(seed))
        cut = compaction.cut_of(found.removable, units)
        small = compaction.compact(function, variables, images, removed=cut)
        logits = jax.eval_shape(small.function, small.variables, images)
        assert logits.shape == (2, 2)
        whole, left = (
            compaction.count_macs(f, v, images)
            for f, v in ((function, variables), (small.function, small.variables))
        )
        assert left <= whole


@given(rest=odd_trees.ODD_TREES, weights=odd_trees.arrays((4, 3), kinds=tuple(odd_trees.BROKEN)))
def test_what_is_not_read_stays(rest, weights):
    variables = {"network": {"in": weights.T, "out": weights}, "rest": rest}

    def function(variables, x):
        return jax.nn.relu(x @ variables["network"]["in"]) @ variables["network"]["out"]

    try:
        small = compaction.compact(function, variables, jnp.ones((2, 3)))
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert jax.tree.structure(small.variables) == jax.tree.structure(variables)
    for leaf, other in zip(*map(jax.tree.leaves, (rest, small.variables["rest"])), strict=True):
        assert other is leaf
