"""A network of functions and a dict, with names as Haiku has them: noise, optax, shrinking, export.

python -m experiments.examples plain small.stablehlo
"""

import jax
import jax.numpy as jnp
import optax

import bbo
from bbo import compaction, noise, pruning
from bbo.compaction.export import write_stablehlo
from bbo.pruning import recovery
from experiments.examples import digits

SIZES = {"conv": (3, 3, 1, 16), "conv_1": (3, 3, 16, 32), "hidden": (32, 32), "linear": (32, 10)}


def init(rng):
    """He's normal numbers."""
    weights = {}
    for name, shape in SIZES.items():
        key, fan_in = jax.random.fold_in(rng, len(weights)), jnp.prod(jnp.array(shape[:-1]))
        w = jax.random.normal(key, shape) * jnp.sqrt(2 / fan_in)
        weights[name] = {"w": w, "b": jnp.zeros(shape[-1])}
    return weights


def network(weights, x):
    """[n, h, w, c] to logits [n, 10]."""
    for name in ("conv", "conv_1"):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, weights[name]["w"], (1, 1), "SAME", dimension_numbers=numbers
        )
        x = jax.nn.relu(x + weights[name]["b"])
    x = x.mean((1, 2))
    x = jax.nn.relu(x @ weights["hidden"]["w"] + weights["hidden"]["b"])
    return x @ weights["linear"]["w"] + weights["linear"]["b"]


def train(function, weights, regulariser, batches, tx):
    """With noise on the weights."""

    @jax.jit
    def step(weights, state, batch, rng):
        def loss(weights):
            noisy = regulariser.weights(rng, weights)  # one draw for the whole batch
            return digits.cross_entropy(function(noisy, batch[0]), batch[1])

        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    return digits.loop(step, weights, tx.init(weights), batches)


def main(path):
    """The whole way, with what comes of it."""
    data, (images, labels) = digits.load()
    weights = init(jax.random.key(0))
    channels = compaction.find_channels(network, weights, images)
    regulariser = noise.batch_bridgeout(rate=0.1, q=1.0, target_unit="filter", channels=channels)
    batches = digits.batches(data, epochs=20)
    weights = train(network, weights, regulariser, batches, optax.adam(3e-3))
    print("trained:", digits.accuracy(network(weights, images), labels))

    # What is pruned stays zero in any loop of optax, and can be removed whenever it suits.
    pruner = pruning.prepare(weights, channels=channels)
    mended = recovery.refit_function(network, weights, pruner.prune(0.5), data[0][:512])
    tx = optax.chain(optax.adam(1e-3), bbo.optax.hold_at_zero(pruner.masks(0.5)))
    tuned = train(network, mended, noise.none(), digits.batches(data, epochs=3), tx)
    print("pruned and trained further:", digits.accuracy(network(tuned, images), labels))
    small = compaction.compact(network, tuned, images)
    print(jax.tree.map(jnp.shape, small.variables), small.report, sep="\n")
    print(write_stablehlo(path, small.function, small.variables, images))
