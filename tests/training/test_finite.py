"""What is NaN or infinite is found, wherever it lies, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo.training.finite import all_finite, not_finite, require_finite
from bbo.types import RunError


def make_tree():
    kernel = jnp.full((3, 4), 2.0)
    return {
        "batch_stats": {"norm": {"var": jnp.ones(4)}},
        "params": {"conv": {"kernel": kernel, "bias": jnp.ones(4, jnp.bfloat16)}},
        "step": jnp.int32(3),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["batch_stats/norm/var", "params/conv/kernel", "params/conv/bias"])
def test_one_number_is_enough(name, value):
    tree = make_tree()
    assert all_finite(tree) and not_finite(tree) == "" and require_finite(tree) is tree
    first, second, last = name.split("/")
    leaf = tree[first][second][last]
    tree[first][second][last] = leaf.ravel().at[-1].set(value).reshape(leaf.shape)
    assert not all_finite(tree)
    with pytest.raises(RunError, match=rf"^{name} is not finite \(1 of {leaf.size} numbers\)"):
        require_finite(tree)


def test_several_are_told_with_the_largest_norms():
    tree = {f"params/{i}": jnp.full(2, jnp.nan) for i in range(5)}
    assert not_finite(tree) == (
        "params/0, params/1, params/2 and 2 more are not finite (10 of 10 numbers)"
    )
    # Norms whose squares are beyond float32.
    tree |= {f"other/{i}": jnp.asarray([3e30, 4e30]) * 10.0**i for i in range(4)}
    assert not_finite(tree).endswith(
        "; largest norms of the others: other/3 5e+33, other/2 5e+32, other/1 5e+31"
    )


def test_each_of_several_networks():
    state = {"w": jnp.asarray([[1.0, 2.0], [1.0, jnp.nan], [jnp.inf, 2.0]]), "none": {}}
    assert jax.vmap(all_finite)(state).tolist() == [True, False, False]
