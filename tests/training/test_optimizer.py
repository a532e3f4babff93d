"""The optimiser and its schedules against the trajectory of the authors' program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bbo.settings.sections import OptimizerConfig
from bbo.training.optimizer import create_optimizer, learning_rate_schedule


@pytest.mark.parametrize("reset", [False, True])
def test_golden_trajectory(golden_dir, reset):
    golden = np.load(golden_dir / "sgd.npz")
    expected = golden["params_momentum_reset_every_3" if reset else "params"]
    config = OptimizerConfig(schedule="constant", reset_momentum=reset)
    with jax.enable_x64(True):
        optimizer = create_optimizer(config, epochs=2, steps_per_epoch=3)
        params = jnp.asarray(golden["p0"])
        state = optimizer.init(params)
        for step, gradient in enumerate(golden["grads"]):
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params, expected[step], rtol=1e-12)


def test_golden_schedule(golden_dir):
    expected = np.load(golden_dir / "sgd.npz")["lr"]
    schedule = learning_rate_schedule(OptimizerConfig(), epochs=230, steps_per_epoch=7)
    first = [float(schedule(7 * epoch)) for epoch in range(230)]
    last = [float(schedule(7 * epoch + 6)) for epoch in range(230)]
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    np.testing.assert_allclose(last, expected, rtol=1e-6)


def test_step_schedule_scales_with_the_epochs():
    schedule = learning_rate_schedule(OptimizerConfig(), epochs=23, steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (0, 59, 60, 119, 120, 160, 200, 229)]
    factors = [1, 1, 0.2, 0.2, 0.04, 0.008, 0.0016, 0.0016]
    np.testing.assert_allclose(rates, [0.1 * factor for factor in factors], rtol=1e-6)


def test_milestones_that_fall_on_one_epoch_all_count():
    schedule = learning_rate_schedule(OptimizerConfig(), epochs=1, steps_per_epoch=10)
    assert float(schedule(9)) == pytest.approx(0.1)
    schedule = learning_rate_schedule(
        OptimizerConfig(milestones=(0.5, 0.55)), epochs=2, steps_per_epoch=10
    )
    assert float(schedule(10)) == pytest.approx(0.1 * 0.04)


def test_cosine_schedule():
    config = OptimizerConfig(schedule="cosine", learning_rate=0.4, warmup_fraction=0.1)
    schedule = learning_rate_schedule(config, epochs=10, steps_per_epoch=10)
    assert float(schedule(0)) == 0
    assert float(schedule(10)) == pytest.approx(0.4)
    assert float(schedule(55)) == pytest.approx(0.2)
    assert float(schedule(100)) == pytest.approx(0, abs=1e-8)


def test_weight_decay_reaches_every_parameter():
    config = OptimizerConfig(schedule="constant", learning_rate=0.5, momentum=0, weight_decay=0.1)
    optimizer = create_optimizer(config, epochs=1, steps_per_epoch=1)
    params = {"kernel": jnp.array([2.0]), "norm": {"scale": jnp.array([1.0])}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert updates["kernel"][0] == pytest.approx(-0.1)
    assert updates["norm"]["scale"][0] == pytest.approx(-0.05)


def test_what_is_held_does_not_change_and_the_rest_changes_as_ever():
    params = {"w": jnp.array([0.0, 2.0, 0.0, 3.0]), "b": jnp.array([1.0])}
    masks = {"w": jnp.array([False, True, False, True]), "b": jnp.array([True])}
    gradients = {"w": jnp.array([5.0, -1.0, 7.0, 1.0]), "b": jnp.array([2.0])}
    config = OptimizerConfig(schedule="constant", learning_rate=0.1)
    plain = create_optimizer(config, epochs=1, steps_per_epoch=9)
    holding = create_optimizer(config, epochs=1, steps_per_epoch=9, holding=True)
    state, expected_state, expected = holding.init(params), plain.init(params), params
    assert all(leaf.all() for leaf in jax.tree.leaves(state.masks))
    state = state._replace(masks=masks)
    for _ in range(3):
        updates, state = holding.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        updates, expected_state = plain.update(gradients, expected_state, expected)
        expected = optax.apply_updates(expected, updates)
    assert params["w"].tolist()[::2] == [0.0, 0.0]
    np.testing.assert_array_equal(params["w"][1::2], expected["w"][1::2])
    np.testing.assert_array_equal(params["b"], expected["b"])
    assert expected["w"][0] < -1
