"""An Equinox network, in channels-first layout: noise, shrinking, least squares, training, export.

python -m experiments.examples equinox small.stablehlo
"""

import equinox as eqx
import jax
import optax

import bbo
from bbo import compaction, noise
from bbo.compaction.export import write_stablehlo
from bbo.pruning import recovery
from experiments.examples import digits


def network(key):
    """Two convolutions and two dense layers; [1, 8, 8] to logits [10]."""
    first, second, third, last = jax.random.split(key, 4)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 16, 3, padding=1, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(16, 32, 3, padding=1, key=second),
            eqx.nn.Lambda(lambda x: jax.nn.relu(x).mean((1, 2))),
            eqx.nn.Linear(32, 32, key=third),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(32, 10, key=last),
        ]
    )


def train(function, weights, regulariser, batches, tx):
    """With noise on the weights, by Adam."""

    @jax.jit
    def step(weights, state, batch, rng):
        def loss(weights):
            noisy = regulariser.weights(rng, weights)  # one draw for the whole batch
            return digits.cross_entropy(function(noisy, batch[0]), batch[1])

        updates, state = tx.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    return digits.loop(step, weights, tx.init(weights), batches)


def main(path):
    """The whole way, with what comes of it."""
    data, (images, labels) = digits.load()
    weights, structure = eqx.partition(network(jax.random.key(0)), eqx.is_inexact_array)

    def function(weights, images):
        return jax.vmap(eqx.combine(weights, structure))(images.transpose(0, 3, 1, 2))

    channels = compaction.find_channels(function, weights, images)
    regulariser = noise.batch_bridgeout(rate=0.1, q=1.0, target_unit="filter", channels=channels)
    weights = train(
        function, weights, regulariser, digits.batches(data, epochs=20), optax.adam(3e-3)
    )
    print("trained:", digits.accuracy(function(weights, images), labels))

    def mend(dense, pruned):
        return recovery.refit_function(function, dense, pruned, data[0][:512])

    small = bbo.shrink(function, weights, images, keep=0.5, recover=mend)
    print(small.report)
    print("small:", digits.accuracy(small.function(small.variables, images), labels))

    more = digits.batches(data, epochs=3)
    tuned = train(small.function, small.variables, noise.none(), more, optax.adam(1e-3))
    print("trained further:", digits.accuracy(small.function(tuned, images), labels))
    print(write_stablehlo(path, small.function, tuned, images))
