"""Numbers of a program that were the length of an axis from which something is removed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import masking
import numpy as np
import pytest
from masking import X, dense

from bbo import compaction
from bbo.compaction import channels
from bbo.compaction.divisors import ANEW, divisor_notes


def with_mean(mean):
    return dense(lambda h: h * mean(h))


def fast_layer_norm(w, h):
    mean, square = (jnp.mean(y, axis=-1, keepdims=True) for y in (h, h * h))
    return ((h - mean) * jax.lax.rsqrt(square - mean * mean + 1e-3) * w["scale"]) @ w["b"]


def looped(w, h):
    body = lambda h, _: (h * h.mean(1, keepdims=True), None)  # noqa: E731
    return jax.lax.scan(body, h, None, 2)[0] @ w["b"]


NOTED = {
    "LayerNorm": (fast_layer_norm, "8, as many as"),
    "mean": (with_mean(lambda h: h.mean(1, keepdims=True)), "8, as many as"),
    "of a vmap": (with_mean(jax.vmap(lambda row: jnp.mean(row)[None])), "8, as many as"),
    "times the reciprocal": (with_mean(lambda h: h.sum(1, keepdims=True) * 0.125), "8, as many as"),
    "divided before": (with_mean(lambda h: (h / 8.0).sum(1, keepdims=True)), "8, as many as"),
    "by its shape": (with_mean(lambda h: h.sum(1)[:, None] / h.shape[1]), "8, as many as"),
    "over all": (with_mean(lambda h: h.mean()), "40, as many as"),
    "unbiased": (with_mean(lambda h: (h * h).sum(1, keepdims=True) / 7.0), "7, one less than"),
    "computed": (
        with_mean(lambda h: jnp.einsum("nc,nc->n", h, h)[:, None] / jnp.sqrt(8.0)),
        "the root of 8, as many as",
    ),
    "a product": (with_mean(lambda h: h @ jnp.full((8, 1), 0.125)), "8, as many as"),
    "loop": (looped, "8, as many as"),
}
SILENT = {
    "a sum": with_mean(lambda h: h.sum(1, keepdims=True)),
    "another number": with_mean(lambda h: h.sum(1, keepdims=True) / 3.0),
    "a mean over the batch": with_mean(lambda h: h.mean(0)),
    "counted": with_mean(lambda h: h.sum(1, keepdims=True) / jnp.ones_like(h).sum(1)[:, None]),
    "by no number": with_mean(lambda h: h.sum(1, keepdims=True) / (1.0 + h * h)),
    "the other way": with_mean(lambda h: 8.0 / (1.0 + h.sum(1, keepdims=True) ** 2)),
}


def notes(operation, numbers=(0, 3)):
    case = masking.case(operation)
    cut = masking.cut_of(case, numbers)
    return compaction.compact(case.function, case.variables, X, removed=cut).report.notes


@pytest.mark.parametrize("name", NOTED)
def test_numbers_that_stay(name):
    operation, number = NOTED[name]
    (note,) = notes(operation)
    assert note == f"a sum over the channels of a is still divided by {number} there were: {ANEW}"


@pytest.mark.parametrize("name", SILENT)
def test_nothing_to_be_said(name):
    assert notes(SILENT[name]) == []


@pytest.mark.parametrize("name", NOTED)
def test_nothing_removed_nothing_said(name):
    assert notes(NOTED[name][0], ()) == []


def test_a_number_that_is_being_traced_is_not_known():
    def left(scale):
        said = notes(with_mean(lambda h: h.sum(1, keepdims=True) * scale))
        assert said == []
        return scale

    assert float(jax.jit(left)(jnp.float32(0.125))) == 0.125


def test_channels_in_groups_go_as_they_are():
    def operation(w, h):
        groups = h.reshape(5, 2, 4)
        mean, square = (jnp.mean(y, axis=-1, keepdims=True) for y in (groups, groups * groups))
        normed = (groups - mean) * jax.lax.rsqrt(square - mean * mean + 1e-3)
        return normed.reshape(5, 8) @ w["b"]

    assert notes(operation, (4, 5, 6, 7)) == [
        f"of a, 1 of 2 parts of 4 channels are left, each as it was: {ANEW}"
    ]


def test_attention_is_scaled_by_the_root_of_what_there_was():
    model = nn.MultiHeadDotProductAttention(2, qkv_features=16)
    x = jnp.ones((2, 5, 6))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    found = channels.find_channels(model.apply, variables, x)
    said = {}
    for group in found.removable:
        cut = channels.cut_of([group], [np.arange(group.size) < 1])
        said[group.name, group.size] = divisor_notes(found, cut)
    number = "the root of 8, as many as there were"
    assert said == {
        ("params/key/kernel", 2): [],
        ("params/key/kernel", 8): [
            f"a sum over the channels of params/key/kernel is still divided by {number}: {ANEW}"
        ],
        ("params/value/kernel", 8): [],
    }


class Network(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Dense(self.width)(x))
        return nn.Dense(3)(x)


def test_the_module_built_anew_is_another_network_and_the_report_says_so():
    variables = masking.draw(jax.eval_shape(Network().init, jax.random.key(0), X))
    names = ("Dense_0/kernel", 1), ("Dense_0/bias", 0), ("LayerNorm_0/scale", 0)
    names = {(f"params/{name}", axis) for name, axis in (*names, ("LayerNorm_0/bias", 0))}
    masked = masking.masked(variables, {member: np.arange(4) for member in names})
    small = compaction.compact(Network().apply, masked, X)
    wanted = Network().apply(masked, X)
    assert masking.difference(wanted, small.function(small.variables, X)) <= 1e-5
    assert masking.difference(wanted, Network(4).apply(small.variables, X)) > 1e-2
    title, note = str(small.report).splitlines()
    assert title == "Channels that are zero and stay: none"
    assert note.startswith("Note: a sum over the channels of params/Dense_0/kernel is still")


def test_complex_numbers_in_a_program_are_no_lengths():
    weights = {"a": jnp.ones((3, 8)).at[:, 0].set(0), "b": jnp.ones((8, 2))}

    def turned(w, x):
        turn = jnp.complex64(1 + 2j)
        return ((x @ w["a"]).astype(turn.dtype) * turn).imag @ w["b"]

    small = compaction.compact(turned, weights, jnp.ones((4, 3)))
    assert small.cut[("a", 1)].tolist() == [0] and str(small.report).count("\n") == 0
    found = small.function(small.variables, jnp.ones((4, 3)))
    np.testing.assert_array_equal(found, turned(weights, jnp.ones((4, 3))))
