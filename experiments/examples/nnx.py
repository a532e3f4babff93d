"""NNX with BatchNorm, the whole way: ``python -m experiments.examples nnx small.stablehlo``."""

import jax
import optax
from flax import nnx

import bbo
from bbo import compaction, noise
from bbo.compaction.export import write_stablehlo
from bbo.pruning import recovery
from experiments.examples import digits

SGD, SLOW = optax.sgd(0.1, momentum=0.9), optax.sgd(0.01, momentum=0.9)


def network(rngs):
    """Two convolutions, each with its norm; [n, h, w, c] to logits [n, 10]."""
    return nnx.Sequential(
        nnx.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs),
        nnx.BatchNorm(16, momentum=0.9, rngs=rngs),
        nnx.relu,
        nnx.Conv(16, 32, (3, 3), use_bias=False, rngs=rngs),
        nnx.BatchNorm(32, momentum=0.9, rngs=rngs),
        lambda x: nnx.relu(x).mean((1, 2)),
        nnx.Linear(32, 10, rngs=rngs),
    )


def train(function, state, regulariser, batches, tx):
    """By ``function(state, images) -> logits, new state``, with noise on the weights."""

    @jax.jit
    def step(state, slopes_state, batch, rng):
        params, rest = nnx.split_state(state, nnx.Param, ...)

        def loss(params):
            noisy = regulariser.weights(rng, nnx.merge_state(params, rest))  # one draw a batch
            logits, new = function(noisy, batch[0])
            return digits.cross_entropy(logits, batch[1]), new

        slopes, new = jax.grad(loss, has_aux=True)(params)
        updates, slopes_state = tx.update(slopes, slopes_state)
        statistics = nnx.split_state(new, nnx.Param, ...)[1]
        return nnx.merge_state(optax.apply_updates(params, updates), statistics), slopes_state

    return digits.loop(step, state, tx.init(nnx.split_state(state, nnx.Param, ...)[0]), batches)


def main(path):
    """The whole way, with what comes of it."""
    data, (images, labels) = digits.load()
    graph, state = nnx.split(network(nnx.Rngs(0)))

    def evaluation(state, images):
        return nnx.view(nnx.merge(graph, state), use_running_average=True)(images)

    def training(state, images):
        whole = nnx.view(nnx.merge(graph, state), use_running_average=False)
        return whole(images), nnx.state(whole)

    channels = compaction.find_channels(evaluation, state, images)
    regulariser = noise.batch_bridgeout(rate=0.15, q=1.0, target_unit="filter", channels=channels)
    state = train(training, state, regulariser, digits.batches(data, epochs=12), SGD)
    print("trained:", digits.accuracy(evaluation(state, images), labels))

    statistics = jax.jit(lambda state, x: training(state, x)[1])

    def mend(_, pruned):
        return recovery.reestimate(statistics, pruned, [data[0][:512], data[0][512:1024]])

    small = bbo.shrink(evaluation, state, images, keep=0.5, recover=mend)
    print(small.report)
    print("small:", digits.accuracy(small.function(small.variables, images), labels))
    cut = {"removed": small.cut, "updates": lambda result: result[1]}
    again = compaction.compact(training, small.masked, data[0][:64], **cut)
    more = digits.batches(data, epochs=3)
    tuned = train(again.function, small.variables, noise.none(), more, SLOW)
    print("trained further:", digits.accuracy(small.function(tuned, images), labels))
    print(write_stablehlo(path, small.function, tuned, images))
