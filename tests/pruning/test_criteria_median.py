"""The geometric median of filters that lie close together, where it has to choose among them."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bbo import pruning


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4])
def test_filters_that_hardly_differ_are_ranked_by_what_sets_them_apart(spread):
    generator = np.random.default_rng(0)
    apart = generator.normal(size=(3, 3, 8, 32)) * generator.uniform(0.5, 1.5, 32)
    kernel = (generator.normal(size=(3, 3, 8, 1)) + spread * apart).astype(np.float32)
    rows = kernel.reshape(-1, 32).T.astype(float)
    options = {"criterion": "geometric_median", "granularity": "filter"}
    found = pruning.scores({"kernel": jnp.asarray(kernel)}, **options)["kernel"]
    wanted = cdist(rows, rows).sum(0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert set(np.argsort(found)[:16]) == set(np.argsort(wanted)[:16])


def test_equal_filters_are_no_distance_apart():
    one = np.random.default_rng(0).normal(size=(3, 3, 8, 1)).astype(np.float32)
    options = {"criterion": "geometric_median", "granularity": "filter"}
    found = pruning.scores({"kernel": jnp.asarray(one).repeat(4, axis=-1)}, **options)["kernel"]
    np.testing.assert_array_equal(found, np.zeros(4))
