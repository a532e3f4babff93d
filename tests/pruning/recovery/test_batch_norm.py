"""Re-estimated BatchNorm statistics are the exact moments, pooled over batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from bbo import trees
from bbo.models.create import create_model
from bbo.pruning.recovery import batch_norm
from bbo.pruning.recovery.biases import correct_biases
from bbo.settings.sections import ModelConfig
from bbo.types import UsageError

IMAGES = np.random.default_rng(1).standard_normal((24, 8, 8, 1)) * 2 + 1


@pytest.fixture(scope="module")
def network():
    """Variables in float64, and the compiled program of moments, as ``compiled`` makes it."""
    with jax.enable_x64(True):
        config = ModelConfig(width=1 / 8, conv_bias=True, norm_momentum=0.0)
        model = create_model(config, num_classes=10, dtype=jnp.float64)
        like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        generator = np.random.default_rng(0)
        draw = lambda leaf: jnp.asarray(generator.uniform(-0.5, 1, leaf.shape))  # noqa: E731
        variables = jax.tree.map(draw, like)

        @jax.jit
        def moments(variables, images):
            options = {"train": True, "mutable": ["batch_stats"]}
            return model.apply(variables, images, **options)[1]["batch_stats"]

        yield variables, moments, model


def batches(size):
    return [jnp.asarray(IMAGES[start : start + size]) for start in range(0, 24, size)]


def test_first_layer_has_the_moments_of_all_images(network):
    variables, moments, _ = network
    mended = batch_norm.reestimate_batch_norm(moments, variables, batches(8))
    conv = variables["params"]["conv1"]
    outputs = lax.conv_general_dilated(
        jnp.asarray(IMAGES),
        conv["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    outputs = np.asarray(outputs) + np.asarray(conv["bias"])
    first = mended["batch_stats"]["conv1_norm"]
    np.testing.assert_allclose(first["mean"], outputs.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(first["var"], outputs.var((0, 1, 2)), rtol=1e-12)
    # The mean of the variances of batches is another number.
    within = np.mean([part.var((0, 1, 2)) for part in np.split(outputs, 3)], axis=0)
    assert (np.abs(within / first["var"] - 1) > 1e-6).all()


def test_one_batch_gives_its_own_statistics_in_every_layer(network):
    variables, moments, _ = network
    (batch,) = batches(24)
    mended = batch_norm.reestimate_batch_norm(moments, variables, [batch])
    expected = trees.flatten(moments(variables, batch))
    found = trees.flatten(mended["batch_stats"])
    assert found.keys() == expected.keys() and len(found) == 8
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
        assert not np.allclose(found[name], trees.flatten(variables["batch_stats"])[name])


def test_parameters_and_arguments_are_left_alone(network):
    variables, moments, _ = network
    before = jax.tree.map(np.array, variables)
    mended = batch_norm.reestimate_batch_norm(moments, variables, batches(24))
    assert mended["params"] is variables["params"]
    for old, now in zip(jax.tree.leaves(before), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(old, now)


def test_a_constant_channel_has_no_variance_and_stays_finite(network):
    variables, moments, model = network
    kernel = variables["params"]["conv2"]["kernel"].at[..., 1].set(0)
    dead = variables["params"]["conv2"] | {"kernel": kernel}
    variables = variables | {"params": variables["params"] | {"conv2": dead}}
    mended = batch_norm.reestimate_batch_norm(moments, variables, batches(8))
    stats = mended["batch_stats"]["conv2_norm"]
    np.testing.assert_allclose(stats["mean"][1], dead["bias"][1], rtol=1e-12)
    assert 0 <= stats["var"][1] < 1e-14 < 1e-3 < stats["var"][0]
    assert np.isfinite(jax.jit(model.apply)(mended, batches(8)[0])).all()


def test_rounding_makes_no_variance_negative():
    moments = {"mean": jnp.linspace(0.1, 100, 1000), "var": jnp.zeros(1000)}
    variables = {"params": {}, "batch_stats": moments}
    mended = batch_norm.reestimate_batch_norm(lambda *_: moments, variables, [jnp.zeros(2)] * 3)
    assert (mended["batch_stats"]["var"] >= 0).all()


def test_every_channel_gets_back_the_mean_and_variance_that_its_norm_gave_it(network):
    """So that neither a removed filter's constant nor lost variance is left to be mended.

    Behind a norm, what every channel had before pruning is the norm's shift and scale.
    """
    variables, moments, model = network
    kernel = variables["params"]["conv1"]["kernel"].at[..., 0].set(0)
    emitting = variables["params"]["conv1"] | {"kernel": kernel}
    pruned = variables | {"params": variables["params"] | {"conv1": emitting}}
    mended = batch_norm.reestimate_batch_norm(moments, pruned, batches(24))
    outputs = jax.jit(lambda v: model.apply(v, IMAGES, capture_intermediates=True)[1])(mended)
    for name, norm in mended["params"].items():
        if name == "conv1_norm" or not name.endswith("_norm"):
            continue
        (output,) = outputs["intermediates"][name]["__call__"]
        variance = mended["batch_stats"][name]["var"]
        np.testing.assert_allclose(output.mean((0, 1, 2)), norm["bias"], rtol=1e-9, atol=1e-9)
        expected = np.square(norm["scale"]) * variance / (variance + 1e-5)
        np.testing.assert_allclose(output.var((0, 1, 2)), expected, rtol=1e-9)


def mean_logits(model, variables):
    outputs, _ = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    return np.asarray(outputs).mean(0)


def test_biases_without_a_norm_give_back_the_mean_of_their_outputs(network):
    variables, _, model = network
    params = variables["params"]
    norm = jax.tree.map(lambda x: x.at[:8].set(0), params["conv4_norm"])
    pruned = variables | {"params": params | {"conv4_norm": norm}}
    correct = jax.jit(
        lambda dense, pruned: correct_biases(
            model, dense, pruned, IMAGES, norm=lambda kernel: kernel.replace("/kernel", "_norm")
        )
    )
    mended = correct(variables, pruned)
    wanted = mean_logits(model, variables)
    assert np.abs(mean_logits(model, pruned) - wanted).max() > 0.1
    np.testing.assert_allclose(mean_logits(model, mended), wanted, rtol=1e-10)
    found, before = trees.flatten(mended["params"]), trees.flatten(pruned["params"])
    assert [name for name in found if (found[name] != before[name]).any()] == ["head/bias"]
    same = correct(variables, variables)
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-12)


def test_layers_in_a_row_are_corrected_one_after_the_other_and_removed_ones_stay():
    class Row(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            del train
            return nn.Dense(2, name="out")(nn.relu(nn.Dense(3, name="hidden")(x)))

    model, x = Row(), jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    dense = model.init(jax.random.key(0), x, train=False)
    kernel = dense["params"]["hidden"]["kernel"].at[:, 0].set(0).at[0].set(0)
    pruned = {
        "params": dense["params"] | {"hidden": dense["params"]["hidden"] | {"kernel": kernel}}
    }
    mended = correct_biases(model, dense, pruned, x)["params"]
    hidden = x @ dense["params"]["hidden"]["kernel"]
    expected = (hidden - x @ kernel).mean(0)
    np.testing.assert_allclose(mended["hidden"]["bias"], [0, *expected[1:]], atol=1e-6)
    outputs = [model.apply(v, x, train=False).mean(0) for v in (dense, {"params": mended})]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-6)
    np.testing.assert_array_equal(mended["hidden"]["kernel"], kernel)


def pool(data, *, wrap):
    """Through any nesting: statistics of each of ``data``'s rows, wrapped, then pooled."""

    def moments(variables, rows):
        del variables
        return wrap({"mean": rows.mean(0), "var": rows.var(0)})

    variables = {"params": {"w": jnp.ones(1)}, "batch_stats": None}
    return batch_norm.reestimate_batch_norm(moments, variables, data)["batch_stats"]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"a": [{"b": s}, {"c": (s, s)}]}])
def test_two_halves_pool_to_the_variance_of_their_union(wrap):
    halves = [jnp.array([[0.0, 1.0], [2.0, 1.0]]), jnp.array([[10.0, 1.0], [16.0, 5.0]])]
    pooled = trees.flatten(pool(halves, wrap=wrap))
    union = np.concatenate(halves)
    for name, value in pooled.items():
        expected = union.mean(0) if name.endswith("mean") else union.var(0)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert union.var(0).tolist() == [41.0, 3.0]
    assert np.mean([half.var(0) for half in halves], axis=0).tolist() == [5.0, 2.0]


def test_statistics_of_another_kind_are_averaged():
    data = [jnp.array([[2.0]]), jnp.array([[4.0]])]
    found = pool(data, wrap=lambda stats: {"norm": stats, "other": stats["mean"]})
    assert float(found["other"][0]) == 3.0 and float(found["norm"]["var"][0]) == 1.0


def test_no_batches_is_an_error(network):
    variables, moments, _ = network
    with pytest.raises(ValueError, match="no batches"):
        batch_norm.reestimate_batch_norm(moments, variables, [])


def running(momentum):
    def moments(variables, rows):
        stats = {"mean": rows.mean(0), "var": rows.var(0)}
        old = variables["batch_stats"]
        return jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, old, stats)

    return moments, {"batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}


def test_a_function_with_momentum_is_an_error():
    rows = jnp.array([[0.0, 1.0], [2.0, 1.0]])
    moments, variables = running(0.99)
    with pytest.raises(UsageError, match=r"a mean that depends on the old one.*reestimate"):
        batch_norm.reestimate_batch_norm(moments, variables, [rows])
    moments, variables = running(0.0)
    found = batch_norm.reestimate_batch_norm(moments, variables, [rows])["batch_stats"]
    assert {name: x.tolist() for name, x in found.items()} == {"mean": [1, 1], "var": [1, 0]}


def test_batches_of_unequal_sizes_are_an_error():
    moments, variables = running(0.0)
    with pytest.raises(UsageError, match=r"shapes \[\(1, 2\)\], the first one \[\(3, 2\)\]"):
        batch_norm.reestimate_batch_norm(moments, variables, [jnp.ones((3, 2)), jnp.ones((1, 2))])
