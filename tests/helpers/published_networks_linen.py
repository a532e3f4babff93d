"""Networks in the style of Linen: kernels ``[height, width, in, out]``, statistics apart."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from published_networks import Published, drawn, images, tokens


def of_linen(module, x):
    """With ``train`` if the module has statistics."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = drawn(shapes)
    if "batch_stats" not in shapes:
        return Published(jax.jit(module.apply), variables, x)

    @jax.jit
    def train(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    return Published(jax.jit(module.apply), variables, x, train)


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: each channel is scaled by a number of its own, told from all means."""

    reduced: int

    @nn.compact
    def __call__(self, x):
        gate = nn.relu(nn.Dense(self.reduced, name="reduce")(x.mean((1, 2), keepdims=True)))
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="expand")(gate))


class ResidualBlock(nn.Module):
    """He et al. 2016, two convolutions, with squeeze-and-excite on the branch."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        def norm(name):
            return nn.BatchNorm(use_running_average=not train, name=name)

        strides = (self.stride, self.stride)
        y = nn.Conv(self.features, (3, 3), strides, use_bias=False, name="conv1")(x)
        y = nn.relu(norm("bn1")(y))
        y = norm("bn2")(nn.Conv(self.features, (3, 3), use_bias=False, name="conv2")(y))
        y = SqueezeExcite(self.features // 2, name="se")(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides, use_bias=False, name="conv_proj")(x)
            x = norm("norm_proj")(x)
        return nn.relu(x + y)


class SqueezeExciteResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn_init")(x))
        x = ResidualBlock(8, name="block1")(x, train)
        x = ResidualBlock(16, stride=2, name="block2")(x, train)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


class Attention(nn.Module):
    """Vaswani et al. 2017; queries, keys and values come out of one matrix."""

    heads: int

    @nn.compact
    def __call__(self, x):
        count, tokens, width = x.shape
        qkv = nn.Dense(3 * width, name="qkv")(x)
        qkv = qkv.reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) * (width // self.heads) ** -0.5
        mixed = jnp.einsum("nhqk,nkhd->nqhd", nn.softmax(scores), value)
        return nn.Dense(width, name="proj")(mixed.reshape(count, tokens, width))


class Encoder(nn.Module):
    """Norm first, as in Dosovitskiy et al. 2021."""

    @nn.compact
    def __call__(self, x):
        x = x + Attention(heads=4, name="attn")(nn.LayerNorm(name="norm1")(x))
        y = nn.gelu(nn.Dense(32, name="fc1")(nn.LayerNorm(name="norm2")(x)))
        return x + nn.Dense(x.shape[-1], name="fc2")(y)


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021: patches, a token of the class, learnt positions."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), (4, 4), padding="VALID", name="patch_embed")(x)
        x = x.reshape(x.shape[0], -1, 16)
        token = self.param("cls_token", nn.initializers.zeros, (1, 1, 16))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 16)), x], axis=1)
        x = x + self.param("pos_embed", nn.initializers.zeros, (1, x.shape[1], 16))
        for i in range(2):
            x = Encoder(name=f"blocks_{i}")(x)
        return nn.Dense(10, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


class Generator(nn.Module):
    """Radford et al. 2016 (DCGAN): noise becomes a small image, which grows."""

    @nn.compact
    def __call__(self, z, train=False):
        def norm(x):
            return nn.relu(nn.BatchNorm(use_running_average=not train)(x))

        x = norm(nn.Dense(4 * 4 * 16, use_bias=False)(z).reshape(-1, 4, 4, 16))
        x = norm(nn.ConvTranspose(8, (4, 4), (2, 2), use_bias=False)(x))
        x = norm(nn.ConvTranspose(4, (4, 4), (2, 2), use_bias=False)(x))
        return jnp.tanh(nn.ConvTranspose(3, (4, 4), (2, 2))(x))


class RecurrentClassifier(nn.Module):
    """Cho et al. 2014: a GRU over embedded words, its last state is classified."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 8)(tokens)
        start = jnp.zeros((len(x), 12), x.dtype)
        x = nn.RNN(nn.GRUCell(12))(x, initial_carry=start)
        return nn.Dense(3)(nn.relu(nn.Dense(6)(x[:, -1])))


def squeeze_excite_resnet():
    return of_linen(SqueezeExciteResNet(), images(6, 8, 8, 3))


def vision_transformer():
    return of_linen(VisionTransformer(), images(6, 8, 8, 3))


def generator():
    return of_linen(Generator(), images(6, 8))


def recurrent_classifier():
    return of_linen(RecurrentClassifier(), tokens(6, 7))
