"""The networks equal those of the authors' program: logits, loss and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_names
from flax import traverse_util

from bbo.models.create import create_model


@pytest.mark.parametrize("name", torch_names.NETWORKS)
def test_golden_network(golden_dir, name):
    golden = torch_names.load(golden_dir, name)
    with jax.enable_x64(True):
        model = create_model(golden.config, num_classes=golden.num_classes, dtype=jnp.float64)
        variables = jax.tree.map(jnp.asarray, torch_names.draw_variables(golden))
        images, labels = jnp.asarray(golden.images), jnp.asarray(golden.arrays["labels"])

        def loss(params):
            variables_ = variables | {"params": params}
            logits, _ = model.apply(variables_, images, train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), logits

        @jax.jit
        def compute(params):
            evaluated = model.apply(variables | {"params": params}, images)
            return evaluated, *jax.value_and_grad(loss, has_aux=True)(params)

        logits_eval, (loss_train, logits_train), grads = compute(variables["params"])
    np.testing.assert_allclose(logits_eval, golden.arrays["logits_eval"], rtol=1e-9)
    np.testing.assert_allclose(logits_train, golden.arrays["logits_train"], rtol=1e-9)
    np.testing.assert_allclose(loss_train, golden.arrays["loss_train"], rtol=1e-9)
    flat = traverse_util.flatten_dict({"params": grads}, sep="/")
    names = torch_names.our_names(golden)
    norms = [np.linalg.norm(np.ravel(flat[names[key]])) for key, _ in golden.record["params"]]
    # A bias before BatchNorm has a gradient of zero: rounding is all there is to compare.
    np.testing.assert_allclose(norms, golden.arrays["grad_norms"], rtol=1e-9, atol=1e-12)


def test_golden_networks_are_all_tested(golden_dir):
    records = json.loads((golden_dir / "nets.json").read_text())
    assert [record["name"] for record in records] == list(torch_names.NETWORKS)
