"""Noise knows no order of the filters: permuted weights and draws give permuted results."""

import jax
import numpy as np
import odd_trees
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbo.noise.bridgeout import bridgeout_perturb, group_perturb
from bbo.noise.dropout import drop, shake
from bbo.noise.targeting import weakest
from bbo.settings.catalog import UNITS

PERTURB = {
    "bridgeout": lambda w, xi: bridgeout_perturb(w, xi, 1.5),
    "group": lambda w, xi: group_perturb(w, xi, 1.0),
    "drop": drop,
    "shake": lambda w, xi: shake(w, xi, 0.2),
}
SHAPE = (3, 3, 4, 9)
KERNELS, DRAWS = odd_trees.arrays(SHAPE), odd_trees.arrays(SHAPE, kinds=("plain",))
ORDERS = st.permutations(range(9)).map(list)


def functions(perturb):
    return jax.jit(perturb), jax.jit(jax.grad(lambda w, xi: perturb(w, xi).sum()))


COMPILED = {name: functions(perturb) for name, perturb in PERTURB.items()}


@pytest.mark.parametrize("name", PERTURB)
@given(w=KERNELS, xi=DRAWS, order=ORDERS)
def test_noise_and_its_derivative_move_with_the_filters(name, w, xi, order):
    for function in COMPILED[name]:
        found = function(w[..., order], xi[..., order])
        expected = np.asarray(function(w, xi))[..., order]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("unit", UNITS)
@given(w=KERNELS, order=ORDERS, fraction=st.floats(0.01, 1))
def test_targets_move_with_the_filters_and_are_no_more_than_asked_for(unit, w, order, fraction):
    mask = np.broadcast_to(weakest(w, fraction, unit), w.shape)
    found = np.broadcast_to(weakest(w[..., order], fraction, unit), w.shape)
    np.testing.assert_array_equal(found, mask[..., order])
    assert mask.mean() <= fraction + 1e-9
