"""Small networks compared with the masked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.pruning.shrinking.report import difference
from bbo.types import RunError


def compared(one, other):
    return difference((lambda w, x: one, None), (lambda w, x: other, None), (jnp.ones(2),), {})


def test_equal_is_equal_also_where_it_is_not_finite():
    odd = np.array([1.0, np.nan, np.inf], np.float32)
    assert compared(odd, odd) == 0
    assert compared({"a": odd, "label": np.array(3)}, {"a": odd, "label": np.array(4)}) == 0


@pytest.mark.parametrize("other", [1.01, np.nan, np.inf])
def test_what_differs_is_an_error(other):
    one = np.array([1.0, 2.0], np.float32)
    with pytest.raises(RunError, match="the small network differs from the masked one"):
        compared(one, np.array([other, 2.0], np.float32))


def test_complex_numbers_have_the_precision_of_their_parts():
    one = np.array([1 + 1j], np.complex64)
    assert 0 < compared(one, one * np.float32(1 + 1e-6)) < 1e-5


def test_it_is_relative_to_the_largest():
    one, other = np.array([1e-9, 100.0], np.float32), np.array([1e-3, 100.0], np.float32)
    np.testing.assert_allclose(compared(one, other), 1e-5, rtol=1e-3)
    with jax.enable_x64(True), pytest.raises(RunError):
        compared(one.astype(np.float64), other.astype(np.float64))
