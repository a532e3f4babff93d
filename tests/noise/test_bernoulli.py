"""The draws are those of ``jax.random``, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.noise.bernoulli import draw_bernoulli, threefry_bits

SHAPE = (101, 7, 3)
PROBABILITIES = (
    *(0.0, 1e-40, 1e-30, 2**-24, 2**-23, 1e-7, 0.1, 0.3, 0.5, 0.7, 1 - 0.3, 0.999),
    *(1 - 2**-23, 1 - 2**-24, 1.0, 1.5, -0.1, float("nan")),
)


def expected(key, probability, shape=SHAPE):
    return jax.random.bernoulli(key, probability, shape)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 70_001])
def test_bits(count):
    for seed in range(5):
        key = jax.random.key(seed)
        bits = threefry_bits(key, count)
        assert bits.dtype == jnp.uint32
        np.testing.assert_array_equal(bits, jax.random.bits(key, (count,)))


def test_bits_are_those_of_the_published_algorithm():
    """Known answers of Random123 for Threefry-2x32 with 20 rounds: word 0 xor word 1."""
    zeros = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32))
    assert int(threefry_bits(zeros, 1)[0]) == 0x6B200159 ^ 0x99BA4EFE


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_every_probability(probability):
    compiled = jax.jit(draw_bernoulli, static_argnums=2)
    for seed in range(3):
        key = jax.random.key(seed)
        wanted = expected(key, probability)
        np.testing.assert_array_equal(draw_bernoulli(key, probability, SHAPE), wanted)
        np.testing.assert_array_equal(compiled(key, jnp.float32(probability), SHAPE), wanted)


def test_at_the_very_edge():
    """A probability that is the number drawn, and its neighbours: strictly below is kept."""
    key = jax.random.key(0)
    for number in np.asarray(jax.random.uniform(key, (20,))):
        for probability in (number, np.nextafter(number, 0), np.nextafter(number, np.float32(1))):
            kept = draw_bernoulli(key, probability, (20,))
            np.testing.assert_array_equal(kept, expected(key, probability, (20,)))


def test_mapped_over_keys_and_probabilities():
    keys = jax.random.split(jax.random.key(1), 11)
    probabilities = jnp.linspace(0, 1, 11)

    def mapped(draw):
        return jax.jit(jax.vmap(lambda key, p: draw(key, p, SHAPE)))(keys, probabilities)

    np.testing.assert_array_equal(mapped(draw_bernoulli), mapped(expected))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_other_generators(impl):
    key = jax.random.fold_in(jax.random.key(3, impl=impl), 5)
    drawn = draw_bernoulli(key, 0.3, (600,))
    np.testing.assert_array_equal(drawn, expected(key, 0.3, (600,)))


def test_other_settings():
    key = jax.random.PRNGKey(3)  # of the old kind
    assert np.array_equal(draw_bernoulli(key, 0.3, (99,)), expected(key, 0.3, (99,)))
    with jax.threefry_partitionable(False):
        unlike = draw_bernoulli(key, 0.3, (99,))
        np.testing.assert_array_equal(unlike, expected(key, 0.3, (99,)))
    with jax.enable_x64(True):
        wide = draw_bernoulli(key, 0.3, (99,))
        np.testing.assert_array_equal(wide, expected(key, 0.3, (99,)))


def test_the_draw_is_no_loop():
    """As such it would not fuse with what uses it."""
    key = jax.random.key(0)
    assert "while" in jax.jit(lambda k: jax.random.bits(k, (64,))).lower(key).as_text()
    text = jax.jit(lambda k: draw_bernoulli(k, 0.3, (64,))).lower(key).as_text()
    assert "while" not in text


def test_over_several_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    key = jax.random.key(4)
    draw = jax.jit(lambda k: draw_bernoulli(k, 0.3, (64, 5)), out_shardings=spread)
    np.testing.assert_array_equal(draw(key), expected(key, 0.3, (64, 5)))
