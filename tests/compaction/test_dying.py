"""What has to be zero for a channel to be dead."""

import jax
import jax.numpy as jnp
import numpy as np

import bbo
from bbo.compaction.channels import find_channels
from bbo.compaction.dying import dying_members


def cosine(w, x):
    return jax.nn.relu(x @ w["in"]) @ (w["out"] / jnp.linalg.norm(w["out"], axis=0))


def test_an_output_that_stays_does_not_count_as_zero():
    draw = np.random.default_rng(0).standard_normal
    weights = {"in": jnp.asarray(draw((6, 8))), "out": jnp.asarray(draw((8, 3)))}
    x = jnp.asarray(draw((5, 6)))
    groups = [sorted(members) for members in dying_members(find_channels(cosine, weights, x))]
    assert groups == [[], [("in", 1), ("out", 0)], []]  # the norm of an output sums its inputs
    small = bbo.shrink(cosine, weights, x, keep=0.5)
    assert small.variables["in"].shape == (6, 4) and small.variables["out"].shape == (4, 3)


def test_of_a_single_channel_nothing_dies():
    weights = {"in": jnp.ones((3, 1)), "out": jnp.ones((1, 2))}
    network = lambda w, x: jax.nn.relu(x @ w["in"]) @ w["out"]  # noqa: E731
    assert dying_members(find_channels(network, weights, jnp.ones(3))) == [{}, {}, {}]


def grown(w, x):
    small = lambda hidden: jnp.sum(hidden - w["limit"]) < 0  # noqa: E731
    return jax.lax.while_loop(small, lambda hidden: hidden * w["gain"], x @ w["in"]) @ w["out"]


def test_what_a_loop_multiplies_by_is_no_statistic_for_what_its_condition_subtracts():
    weights = {"in": jnp.ones((3, 8)), "gain": jnp.ones(8), "limit": jnp.ones(8)}
    found = find_channels(grown, weights | {"out": jnp.ones((8, 2))}, jnp.ones(3))
    (dying,) = filter(None, dying_members(found))
    assert {name for name, _ in dying} == {"in", "gain", "limit"}
