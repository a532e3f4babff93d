"""Noise knows no order of the filters: permuted weights and draws give permuted results."""

import jax
import numpy as np
import pytest

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


def drawn(seed):
    generator = np.random.default_rng(seed)
    w, xi = generator.standard_normal((2, 3, 3, 4, 9)).astype(np.float32)
    return w, xi, generator.permutation(9)


@pytest.mark.parametrize("name", PERTURB)
def test_noise_and_its_derivative_move_with_the_filters(name):
    perturb = PERTURB[name]
    slope = jax.grad(lambda w, xi: perturb(w, xi).sum())
    for seed in range(3):
        w, xi, order = drawn(seed)
        for function in (perturb, slope):
            found = function(w[..., order], xi[..., order])
            np.testing.assert_allclose(found, function(w, xi)[..., order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_targets_move_with_the_filters(unit):
    for seed in range(3):
        w, _, order = drawn(seed)
        mask = np.broadcast_to(weakest(w, 0.6, unit), w.shape)
        found = np.broadcast_to(weakest(w[..., order], 0.6, unit), w.shape)
        np.testing.assert_array_equal(found, mask[..., order])
        assert 0 < mask.mean() < 1
