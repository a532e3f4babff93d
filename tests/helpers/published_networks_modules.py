"""Networks in the styles of NNX and Equinox: their arrays are split off modules."""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from published_networks import Published, drawn, images


def of_nnx(make, x):
    """With ``train`` if the module has statistics."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))  # compiling initialisers takes long
    module.eval()
    graph, state = nnx.split(module)

    @jax.jit
    def function(state, x):
        return nnx.merge(graph, state)(x)

    @jax.jit
    def train(state, x):
        network = nnx.merge(graph, state)
        network.train()
        return network(x), nnx.state(network, nnx.BatchStat)

    has_statistics = bool(jax.tree.leaves(nnx.state(module, nnx.BatchStat)))
    return Published(function, drawn(state), x, train if has_statistics else None)


def of_equinox(make, x):
    arrays, rest = eqx.partition(
        eqx.filter_eval_shape(make, jax.random.key(0)),
        lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct),
    )

    @jax.jit
    def function(arrays, x):
        return jax.vmap(eqx.combine(arrays, rest))(x)

    return Published(function, drawn(arrays), x)


class ConvNeXtBlock(nnx.Module):
    """Liu et al. 2022: depthwise, norm, four times as wide, and back, scaled."""

    def __init__(self, width, rngs):
        self.dwconv = nnx.Conv(width, width, (3, 3), feature_group_count=width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.pwconv1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.pwconv2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x):
        y = self.pwconv2(nnx.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + self.gamma[...] * y


class ConvNeXt(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (2, 2), (2, 2), rngs=rngs)
        self.stem_norm = nnx.LayerNorm(8, rngs=rngs)
        self.stage1 = ConvNeXtBlock(8, rngs)
        self.down_norm = nnx.LayerNorm(8, rngs=rngs)
        self.down = nnx.Conv(8, 16, (2, 2), (2, 2), rngs=rngs)
        self.stage2 = ConvNeXtBlock(16, rngs)
        self.head_norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stage1(self.stem_norm(self.stem(x)))
        x = self.stage2(self.down(self.down_norm(x)))
        return self.head(self.head_norm(x.mean((1, 2))))


class DenseLayer(nnx.Module):
    def __init__(self, width, growth, rngs):
        self.norm1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv1 = nnx.Conv(width, 2 * growth, (1, 1), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(2 * growth, rngs=rngs)
        self.conv2 = nnx.Conv(2 * growth, growth, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        y = self.conv1(nnx.relu(self.norm1(x)))
        return jnp.concatenate([x, self.conv2(nnx.relu(self.norm2(y)))], axis=-1)


class DenseNet(nnx.Module):
    """Huang et al. 2017: each layer reads all before it."""

    def __init__(self, rngs):
        self.conv0 = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.block1 = nnx.List([DenseLayer(8 + 4 * i, 4, rngs) for i in range(2)])
        self.trans_norm = nnx.BatchNorm(16, rngs=rngs)
        self.trans_conv = nnx.Conv(16, 8, (1, 1), use_bias=False, rngs=rngs)
        self.block2 = nnx.List([DenseLayer(8 + 4 * i, 4, rngs) for i in range(2)])
        self.norm5 = nnx.BatchNorm(16, rngs=rngs)
        self.classifier = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.conv0(x)
        for layer in self.block1:
            x = layer(x)
        x = nnx.avg_pool(self.trans_conv(nnx.relu(self.trans_norm(x))), (2, 2), (2, 2))
        for layer in self.block2:
            x = layer(x)
        return self.classifier(nnx.relu(self.norm5(x)).mean((1, 2)))


class VGG(eqx.Module):
    """Simonyan and Zisserman 2015, the flattened images read by dense layers."""

    features: eqx.nn.Sequential
    classifier: eqx.nn.Sequential

    def __init__(self, key):
        keys = iter(jax.random.split(key, 6))
        relu, pool = eqx.nn.Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2)

        def conv(inputs, outputs):
            return eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=next(keys))

        self.features = eqx.nn.Sequential(
            [conv(3, 8), relu, conv(8, 8), relu, pool, conv(8, 16), relu, conv(16, 16), relu, pool]
        )
        linear = [eqx.nn.Linear(16 * 4, 32, key=next(keys)), eqx.nn.Linear(32, 10, key=next(keys))]
        self.classifier = eqx.nn.Sequential([linear[0], relu, linear[1]])

    def __call__(self, x):
        return self.classifier(self.features(x).ravel())


class DoubleConv(eqx.Module):
    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.GroupNorm
    conv2: eqx.nn.Conv2d

    def __init__(self, inputs, outputs, key):
        keys = jax.random.split(key)
        self.conv1 = eqx.nn.Conv2d(inputs, outputs, 3, padding=1, key=keys[0])
        self.norm1 = eqx.nn.GroupNorm(outputs, outputs)
        self.conv2 = eqx.nn.Conv2d(outputs, outputs, 3, padding=1, key=keys[1])

    def __call__(self, x):
        return jax.nn.relu(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))


class UNet(eqx.Module):
    """Ronneberger et al. 2015: down, up, and beside each other what has the same size."""

    down1: DoubleConv
    down2: DoubleConv
    middle: DoubleConv
    up2: eqx.nn.ConvTranspose2d
    merge2: DoubleConv
    up1: eqx.nn.ConvTranspose2d
    merge1: DoubleConv
    out: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d

    def __init__(self, key):
        keys = jax.random.split(key, 8)
        self.down1, self.down2 = DoubleConv(3, 4, keys[0]), DoubleConv(4, 8, keys[1])
        self.middle = DoubleConv(8, 16, keys[2])
        self.up2 = eqx.nn.ConvTranspose2d(16, 8, 2, 2, key=keys[3])
        self.merge2 = DoubleConv(16, 8, keys[4])
        self.up1 = eqx.nn.ConvTranspose2d(8, 4, 2, 2, key=keys[5])
        self.merge1 = DoubleConv(8, 4, keys[6])
        self.out = eqx.nn.Conv2d(4, 2, 1, key=keys[7])
        self.pool = eqx.nn.MaxPool2d(2, 2)

    def __call__(self, x):
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.up2(self.middle(self.pool(two)))
        x = self.up1(self.merge2(jnp.concatenate([two, x])))
        return self.out(self.merge1(jnp.concatenate([one, x])))


def convnext():
    return of_nnx(ConvNeXt, images(6, 8, 8, 3))


def densenet():
    return of_nnx(DenseNet, images(6, 8, 8, 3))


def vgg():
    return of_equinox(VGG, images(6, 3, 8, 8))


def unet():
    return of_equinox(UNet, images(6, 3, 8, 8))
