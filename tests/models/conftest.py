"""What holds for all tests of the networks."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict():
    """Arrays of different ranks are not added by accident."""
    with jax.numpy_rank_promotion("raise"):
        yield
