"""Selection by rank is what sorting gives, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.noise.targeting import smallest, weakest
from bbo.settings.catalog import UNITS
from bbo.types import UsageError


def cases(dtype):
    rng = np.random.default_rng(0)
    many = np.abs(rng.standard_normal((300, 5))).astype(dtype)
    ties = np.round(many * 2) / 2
    yield many
    yield ties.astype(dtype)
    yield np.zeros((70, 5), dtype)
    yield np.where(many > 1, dtype(0), many)
    yield np.where(many > 1, dtype(np.inf), many * dtype(1e-30))
    yield np.where(many > 1, dtype(np.finfo(dtype).tiny), dtype(np.finfo(dtype).max))
    yield -np.zeros((70, 5), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_it_is_what_sorting_gives(dtype, axis):
    with jax.enable_x64(dtype == np.float64):
        find = jax.jit(smallest, static_argnums=1, static_argnames="axis")
        for number, values in enumerate(cases(dtype)):
            along = values if axis == 0 else values.T
            count = along.shape[axis]
            expected = np.sort(along, axis=axis)
            for rank in {0, 1, count // 3, int(count * 0.75), count - 1}:
                found = np.asarray(find(jnp.asarray(along), rank, axis=axis))
                wanted = np.take(expected, [rank], axis=axis)
                assert found.dtype == dtype and found.shape == wanted.shape
                np.testing.assert_array_equal(found, wanted, err_msg=f"case {number}")


def test_few_numbers_are_sorted():
    values = jnp.array([3.0, 1.0, 2.0])
    assert [float(smallest(values, rank, axis=0)[0]) for rank in range(3)] == [1, 2, 3]


def test_several_at_once():
    values = jnp.asarray(np.random.default_rng(1).random((3, 200), np.float32))
    found = jax.vmap(lambda row: smallest(row, 150, axis=0))(values)
    np.testing.assert_array_equal(found[:, 0], np.sort(values, axis=1)[:, 150])


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_that_is_not_there(rank):
    with pytest.raises(UsageError, match="rank is"):
        smallest(jnp.zeros(3), rank, axis=0)


@pytest.mark.parametrize("unit", UNITS)
def test_of_a_single_number_none_is_the_weakest(unit):
    with pytest.raises(UsageError, match=rf"shape \(\), in which no weakest {unit} can be"):
        weakest(jnp.float32(2.0), 0.5, unit)
