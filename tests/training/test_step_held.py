"""What an optimiser holds at zero is zero in every forward pass, whatever the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from layers import conv

from bbo import noise, pruning
from bbo.training.optimizer import hold
from bbo.training.step import Clean, Recipe, TrainState, train_step

SGD = hold(optax.sgd(0.1, momentum=0.9))
KEYS = jax.random.split(jax.random.key(0), 3)
BATCH = {
    "image": jax.random.normal(KEYS[0], (6, 5, 5, 3)),
    "label": jnp.arange(6, dtype=jnp.int32) % 4,
    "index": jnp.arange(6, dtype=jnp.int32),
}

TOLD = []  # a list that is a field of the network would be made a tuple


class Network(nn.Module):
    """Tells the largest of the weights that it is applied to where every other column is gone."""

    @nn.compact
    def __call__(self, x, *, train=False, noise=None):
        kernel = self.param("kernel", nn.initializers.normal(0.1), (3, 3, 3, 4))
        jax.debug.callback(TOLD.append, kernel[..., ::2])
        return conv(x, kernel).mean((1, 2))


def begun(params):
    masks = {"kernel": jnp.broadcast_to(jnp.arange(4) % 2 == 1, (3, 3, 3, 4))}
    pruned = pruning.apply_masks(params, masks)
    opt_state = SGD.init(pruned)._replace(masks=masks)
    return TrainState(jnp.int32(0), pruned, {}, opt_state)


@pytest.mark.parametrize("clean", [Clean(), Clean(0.5, each_step=True, ascent=0.1)])
@pytest.mark.parametrize(
    "regulariser",
    [
        noise.group_bridgeout(rate=0.3, q=1.0),
        noise.bridgeout(rate=0.3, q=0.25),
        noise.batch_bridgeout(rate=0.3, q=0.25, target_fraction=1.0),
        noise.dropconnect(rate=0.3),
        noise.none(),
    ],
)
def test_no_forward_pass_has_what_was_removed(regulariser, clean):
    model = Network()
    params = model.init(KEYS[1], BATCH["image"])["params"]
    jax.effects_barrier()
    TOLD.clear()
    state = begun(params)
    recipe = Recipe(model, regulariser, SGD, clean=clean)
    for _ in range(2):
        state, metrics = train_step(state, BATCH, KEYS[2], recipe)
    jax.effects_barrier()
    assert len(TOLD) >= 2 and all((np.asarray(weights) == 0).all() for weights in TOLD)
    assert np.isfinite(metrics["loss"])
    assert (state.params["kernel"][..., ::2] == 0).all()
    changed = state.params["kernel"] != begun(params).params["kernel"]
    assert changed[..., 1::2].mean() > 0.8


def test_holding_nothing_changes_no_number():
    params = {"kernel": jax.random.normal(KEYS[1], (3, 3, 3, 4))}
    regulariser = noise.group_bridgeout(rate=0.3, q=1.0)
    everything = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    one, other = (
        r.weights(KEYS[2], params) for r in (regulariser, noise.masked(regulariser, everything))
    )
    np.testing.assert_array_equal(one["kernel"], other["kernel"])
