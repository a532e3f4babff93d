"""Whatever the network: a random one without its dead channels equals the masked one."""

import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from jax import lax
from layers import conv

CHANNELS, LAYERS = 4, 5


def random_network(seed):
    """A function of variables and images, and its variables, in float64.

    Layers are drawn one after the other: convolutions with and without bias and norm, of earlier
    outputs, of sums of two, or of two concatenated; in the end all that nothing has read.
    """
    generator = np.random.default_rng(seed)
    plan, shapes, widths = [], {}, [3]
    for number in range(LAYERS):
        kind = generator.choice(["one", "sum", "concat"])
        first, second = generator.integers(len(widths), size=2)
        if kind == "sum" and widths[first] != widths[second]:
            kind = "concat"
        read = widths[first] + (widths[second] if kind == "concat" else 0)
        width = int(generator.choice([CHANNELS, CHANNELS, 3]))
        has_norm, size = bool(generator.integers(2)), int(generator.choice([1, 3]))
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

    like = {name: jax.ShapeDtypeStruct(shape, jnp.float64) for name, shape in shapes.items()}
    return function, masking.draw(like, seed)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_network_without_dead_channels_equals_the_masked_one(seed):
    with jax.enable_x64(True):
        function, variables = random_network(seed)
        images = jnp.asarray(np.random.default_rng(seed).standard_normal((2, 4, 4, 3)))
        # Channels of which a shift without a weight is left are not dead, nor need all others be.
        small = masking.check(
            function, variables, images, seeds=range(3), tolerance=1e-12, all_dead=False
        )
        sizes = [sum(x.size for x in jax.tree.leaves(of)) for of in (small.variables, variables)]
        assert sizes[0] < sizes[1]
