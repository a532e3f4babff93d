"""Four draws from each random number: of probabilities that are multiples of 1/256, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import noise
from bbo.noise.bernoulli import draw_bernoulli_bytes, in_bytes
from bbo.settings.noise_section import NoiseConfig
from bbo.types import UsageError

COUNT = 4 * 50_000


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("probability", [0.0, 1 / 256, 0.3, 0.7, 255 / 256, 1.0])
def test_each_byte_of_the_bits_is_compared(impl, probability):
    key = jax.random.key(3, impl=impl)
    bits = np.asarray(jax.random.bits(key, (COUNT // 4,), jnp.uint32))
    wanted = bits.astype("<u4").view(np.uint8) < round(256 * probability)
    np.testing.assert_array_equal(draw_bernoulli_bytes(key, probability, (COUNT,)), wanted)
    traced = jax.jit(lambda p: draw_bernoulli_bytes(key, p, (COUNT // 5, 5)))
    np.testing.assert_array_equal(traced(jnp.float32(probability)), wanted.reshape(-1, 5))


def test_any_number_of_draws():
    key, whole = jax.random.key(0), draw_bernoulli_bytes(jax.random.key(0), 0.5, (8,))
    for count in range(8):
        np.testing.assert_array_equal(draw_bernoulli_bytes(key, 0.5, (count,)), whole[:count])


@pytest.mark.parametrize("name", ["dropout", "sparseout"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mean_is_kept_and_the_variance_is_that_of_the_rounded_rate(name, rate):
    extra = {"q": 2.0} if name == "sparseout" else {}
    regulariser = getattr(noise, name)(rate=rate, draw_bits=8, **extra)
    x, index = jnp.full((64, 40, 40, 4), 2.0), jnp.arange(64)
    drawn = np.asarray(regulariser.activations(jax.random.key(1), x, index=index)) / 2
    nearest = round(256 * rate) / 256
    assert {0.0, float(np.float32(1 / (1 - nearest)))} == set(np.unique(drawn).tolist())
    variance = nearest / (1 - nearest)
    assert abs(drawn.mean() - 1) < 5 * (variance / drawn.size) ** 0.5
    assert drawn.var() == pytest.approx(variance, rel=0.03)


def test_a_rate_that_would_be_nothing_is_refused():
    with pytest.raises(UsageError, match="1/256 or more where draw_bits is 8"):
        noise.dropout(rate=0.001, draw_bits=8)
    with pytest.raises(UsageError, match="which draws of 8 bits round to 0; set draw_bits to 32"):
        NoiseConfig(noise="dropout", rate=0.001, draw_bits=8)
    with pytest.raises(UsageError, match="draw_bits is 16"):
        NoiseConfig(noise="dropout", draw_bits=16)
    with pytest.raises(UsageError, match="draw_bits is 16"):
        noise.sparseout(rate=0.5, q=1.0, draw_bits=16)


def test_it_is_named_where_it_is_set_and_nowhere_else():
    assert "draw_bits" not in NoiseConfig(noise="dropout").effective
    assert NoiseConfig(noise="dropout", draw_bits=8).effective["draw_bits"] == 8
    assert "draw_bits" not in NoiseConfig(noise="batch_bridgeout", draw_bits=8).effective
    assert in_bytes(0.3) == 77 / 256
