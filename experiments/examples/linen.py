"""A Linen network with BatchNorm: trained with noise, shrunk, mended, trained further, exported.

python -m experiments.examples linen small.stablehlo
"""

import jax
import optax
from flax import linen as nn

import bbo
from bbo import compaction, noise
from bbo.compaction.export import write_stablehlo
from bbo.pruning import recovery
from experiments.examples import digits

SGD, SLOW = optax.sgd(0.1, momentum=0.9), optax.sgd(0.01, momentum=0.9)


class Network(nn.Module):
    """Three convolutions, each with its norm."""

    @nn.compact
    def __call__(self, x, train=False):
        """[n, h, w, c] to logits [n, 10]."""
        for features in (16, 32, 32):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def train(function, variables, regulariser, batches, tx):
    """By ``function(variables, images) -> logits, new statistics``, with noise on the weights."""

    @jax.jit
    def step(variables, state, batch, rng):
        def loss(params):
            noisy = regulariser.weights(rng, params)  # one draw for the whole batch
            logits, new = function(variables | {"params": noisy}, batch[0])
            return digits.cross_entropy(logits, batch[1]), new

        slopes, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(slopes, state)
        return {"params": optax.apply_updates(variables["params"], updates), **new}, state

    return digits.loop(step, variables, tx.init(variables["params"]), batches)


def main(path):
    """The whole way, with what comes of it."""
    data, (images, labels) = digits.load()
    network = Network()

    def training(variables, x):
        return network.apply(variables, x, True, mutable=["batch_stats"])

    variables = network.init(jax.random.key(0), images)
    channels = compaction.find_channels(network.apply, variables, images).within("params")
    regulariser = noise.batch_bridgeout(rate=0.15, q=1.0, target_unit="filter", channels=channels)
    variables = train(training, variables, regulariser, digits.batches(data, epochs=12), SGD)
    print("trained:", digits.accuracy(network.apply(variables, images), labels))

    statistics = jax.jit(lambda variables, x: training(variables, x)[1])

    def mend(_, pruned):
        return recovery.reestimate(statistics, pruned, [data[0][:512], data[0][512:1024]])

    small = bbo.shrink(network.apply, variables, images, keep=0.5, recover=mend)
    print(small.report)
    print("small:", digits.accuracy(small.function(small.variables, images), labels))

    cut = {"removed": small.cut, "updates": lambda result: result[1]}
    again = compaction.compact(training, small.masked, data[0][:64], **cut)
    batches = digits.batches(data, epochs=3)
    tuned = train(again.function, small.variables, noise.none(), batches, SLOW)
    print("trained further:", digits.accuracy(small.function(tuned, images), labels))
    print(write_stablehlo(path, small.function, tuned, images))
