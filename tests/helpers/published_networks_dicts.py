"""Networks as plain dicts: with Haiku's names, and a state space model."""

import jax
import jax.numpy as jnp
from jax import lax
from layers import conv
from published_networks import Published, drawn, images, tokens


def apply_mobilenet(variables, x):
    """Howard et al. 2017: each channel by itself, then all at each place. Running averages as they
    are at test: no correction for having begun."""
    params, state = variables["params"], variables["state"]

    def norm(name, x):
        averages = [state[f"{name}/~/{which}_ema"]["average"] for which in ("mean", "var")]
        own = params[name]
        scale = own["scale"] * lax.rsqrt(averages[1] + 1e-5)
        return jax.nn.relu((x - averages[0]) * scale + own["offset"])

    name = "mobilenet_v1/~/"
    x = norm(f"{name}initial_batchnorm", conv(x, params[f"{name}initial_conv"]["w"], 2))
    for i, stride in enumerate((1, 2)):
        block = f"{name}mobilenet_v1_block_{i}/~/"
        depthwise = params[f"{block}depthwise_conv"]["w"]
        x = norm(f"{block}batchnorm", conv(x, depthwise, stride, groups=x.shape[-1]))
        x = norm(f"{block}batchnorm_1", conv(x, params[f"{block}pointwise_conv"]["w"]))
    head = params[f"{name}logits"]
    return x.mean((1, 2)) @ head["w"] + head["b"]


def apply_mamba(variables, words):
    """Gu and Dao 2023: a residual stream, and on a gated branch a state that each input moves."""
    x = variables["embedding"][words]
    for layer in variables["layers"]:
        x = x + selective(layer, rms_norm(layer["norm"], x))
    return rms_norm(variables["norm_f"], x) @ variables["embedding"].T


def rms_norm(scale, x):
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale


def selective(layer, x):
    states, rank = layer["A_log"].shape[1], layer["dt_proj"].shape[0]
    x, gate = jnp.split(x @ layer["in_proj"], 2, axis=-1)
    x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    x = lax.conv_general_dilated(
        x,
        layer["conv1d"]["weight"],
        (1,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1],
    )
    x = jax.nn.silu(x + layer["conv1d"]["bias"])
    step, b, c = jnp.split(x @ layer["x_proj"], [rank, rank + states], axis=-1)
    step = jax.nn.softplus(step @ layer["dt_proj"] + layer["dt_bias"])
    decay = jnp.exp(step[..., None] * -jnp.exp(layer["A_log"]))
    entering = (step * x)[..., None] * b[..., None, :]

    def then(one, other):
        return one[0] * other[0], other[0] * one[1] + other[1]

    _, state = lax.associative_scan(then, (decay, entering), axis=1)
    y = jnp.einsum("ntds,nts->ntd", state, c) + layer["D"] * x
    return (y * jax.nn.silu(gate)) @ layer["out_proj"]


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float64)


def mobilenet():
    name = "mobilenet_v1/~/"
    shapes = {
        f"{name}initial_conv": {"w": shape(3, 3, 3, 8)},
        f"{name}logits": {"w": shape(24, 10), "b": shape(10)},
    }
    norms = {f"{name}initial_batchnorm": 8}
    for i, (inputs, outputs) in enumerate(((8, 16), (16, 24))):
        block = f"{name}mobilenet_v1_block_{i}/~/"
        shapes[f"{block}depthwise_conv"] = {"w": shape(3, 3, 1, inputs)}
        shapes[f"{block}pointwise_conv"] = {"w": shape(1, 1, inputs, outputs)}
        norms |= {f"{block}batchnorm": inputs, f"{block}batchnorm_1": outputs}
    state = {}
    for norm, width in norms.items():
        one = shape(1, 1, 1, width)
        shapes[norm] = {"scale": one, "offset": one}
        for which in ("mean_ema", "var_ema"):
            counter = jnp.zeros((), jnp.int32)
            state[f"{norm}/~/{which}"] = {"counter": counter, "hidden": one, "average": one}
    variables = drawn({"params": shapes, "state": state})
    return Published(jax.jit(apply_mobilenet), variables, images(6, 8, 8, 3))


def mamba():
    layer = {
        "norm": shape(8),
        "in_proj": shape(8, 32),
        "conv1d": {"weight": shape(3, 1, 16), "bias": shape(16)},
        "x_proj": shape(16, 2 + 4 + 4),
        "dt_proj": shape(2, 16),
        "dt_bias": shape(16),
        "A_log": shape(16, 4),
        "D": shape(16),
        "out_proj": shape(16, 8),
    }
    variables = {"embedding": shape(20, 8), "layers": [layer, layer], "norm_f": shape(8)}
    return Published(jax.jit(apply_mamba), drawn(variables), tokens(6, 7))
