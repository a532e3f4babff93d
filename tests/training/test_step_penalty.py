"""A step with a penalty on the loss: its slope is in the gradient wherever the noisy network is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from bbo import noise
from bbo.training.step import CLEAN, Clean, Recipe, TrainState, train_step

SHARE = 0.4
PENALTY = noise.lq_penalty(penalty=0.2, q=1.0, on="kernel")
PARAMS = {"kernel": jax.random.normal(jax.random.key(0), (12, 3)), "bias": jnp.zeros(3)}
BATCH = {
    "image": jax.random.normal(jax.random.key(1), (6, 2, 2, 3)),
    "label": jnp.arange(6, dtype=jnp.int32) % 3,
    "index": jnp.arange(6, dtype=jnp.int32),
}
KEY = jax.random.key(2)


class Linear(nn.Module):
    """Logits of the pixels."""

    @nn.compact
    def __call__(self, x, *, train=False, noise=None):
        kernel = self.param("kernel", nn.initializers.zeros, (12, 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        return x.reshape(len(x), -1) @ kernel + bias


def slopes(regulariser, clean, step):
    optimizer = optax.sgd(1.0)
    state = TrainState(jnp.int32(step), PARAMS, {}, optimizer.init(PARAMS))
    recipe = Recipe(Linear(), regulariser, optimizer, clean=clean)
    after, metrics = jax.jit(lambda state: train_step(state, BATCH, KEY, recipe))(state)
    return jax.tree.map(lambda old, new: old - new, PARAMS, after.params), metrics["loss"]


@pytest.mark.parametrize(
    ("clean", "share"),
    [
        (Clean(), 1.0),
        (Clean(distill=0.5), 1.0),
        (Clean(SHARE, each_step=True), 1 - SHARE),
        (Clean(SHARE), None),
    ],
)
def test_its_slope_is_added(clean, share):
    kinds = set()
    for step in range(1 if share else 12):
        is_clean = jax.random.bernoulli(
            jax.random.fold_in(jax.random.fold_in(KEY, step), CLEAN), SHARE
        )
        added = (0.0 if is_clean else 1.0) if share is None else share
        (found, loss), (plain, data) = (slopes(one, clean, step) for one in (PENALTY, noise.none()))
        expected = added * 0.2 * np.sign(PARAMS["kernel"])
        np.testing.assert_allclose(found["kernel"] - plain["kernel"], expected, atol=1e-5)
        np.testing.assert_array_equal(found["bias"], plain["bias"])
        extra = added * 0.2 * np.abs(PARAMS["kernel"]).sum()
        assert loss - data == pytest.approx(extra, rel=1e-4, abs=1e-5)
        kinds.add(added)
    assert share or kinds == {0.0, 1.0}
