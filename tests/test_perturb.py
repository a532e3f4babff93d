"""Elementary noise: golden values of the authors' program, gradients near zero, targeting."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bbo import perturb

RATE = 0.3


def to_hwio(w):
    return np.transpose(w, (2, 3, 1, 0)) if w.ndim == 4 else w.T


def perturb_as_trained(w, keep, case):
    """The transform of the pipeline with the recorded draw in place of a random one."""
    rate, fraction = case["drop_rate"], case["target_fraction"]
    if case["kind"] == "bridgeout":
        xi = jnp.where(perturb.weakest(w, fraction, "kernel"), perturb.centred(keep, rate), 0.0)
        return perturb.bridgeout_perturb(w, xi, case["q"])
    mask = jax.vmap(lambda x: perturb.weakest_maps(x, fraction))(w)
    return perturb.drop(w, jnp.where(mask, perturb.centred(keep, rate), 0.0))


def layout_of(case):
    """From torch's layout: kernels to HWIO; of activations the channels last."""
    if case["kind"] == "bridgeout":
        return lambda w: np.transpose(w, (2, 3, 1, 0)) if w.ndim == 4 else w.T
    return lambda x: np.moveaxis(x, 1, -1)


@jax.enable_x64(True)
def value_and_gradient(case, arrays):
    w, keep, upstream = (jnp.asarray(arrays[name]) for name in ("w", "keep", "upstream"))
    value, pullback = jax.vjp(lambda x: perturb_as_trained(x, keep, case), w)
    return value, pullback(upstream)[0]


def test_golden(shared_dir):
    recorded = np.load(shared_dir / "golden/noise.npz")
    for number, case in enumerate(json.loads((shared_dir / "golden/noise.json").read_text())):
        layout = layout_of(case)
        names = ("w", "keep", "upstream", "out", "grad")
        arrays = {name: layout(recorded[f"{number}/{name}"]) for name in names}
        value, gradient = value_and_gradient(case, arrays)
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, arrays["out"], rtol=1e-12, err_msg=f"case {number}")
        np.testing.assert_allclose(gradient, arrays["grad"], rtol=1e-9, err_msg=f"case {number}")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("q", [0.01, 0.5, 1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("transform", [perturb.bridgeout_perturb, perturb.group_perturb])
def test_gradients_are_finite_near_zero(dtype, q, transform):
    w = jnp.array([0.0, -0.0, 1e-38, -1e-30, 1e-12, 1.0], dtype).reshape(1, 6)
    xi = jnp.array([[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]], dtype)
    value, pullback = jax.vjp(lambda w: transform(w, xi, q), w)
    (gradient,) = pullback(jnp.ones_like(value))
    assert value.dtype == gradient.dtype == dtype
    assert np.isfinite(np.asarray(value, np.float32)).all()
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    np.testing.assert_array_equal(np.asarray(gradient[0, :2], np.float32), 1.0)


@pytest.mark.parametrize("transform", [perturb.bridgeout_perturb, perturb.group_perturb])
def test_derivatives_match_finite_differences(transform):
    with jax.enable_x64(True):
        w = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
        xi = perturb.draw_xi(jax.random.key(1), (3, 4), RATE, jnp.float64)
        check_grads(lambda w, xi: transform(w, xi, 1.5), (w, xi), order=1)


def test_targeting_by_hand():
    kernel = jnp.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [4.0, 4.0]])
    by_weight = [[False, True], [True, True], [True, False], [False, False]]
    np.testing.assert_array_equal(perturb.weakest(kernel, 0.5), by_weight)
    np.testing.assert_array_equal(perturb.weakest(kernel, 0.5, "weight"), by_weight)
    ties = jnp.array([[1.0], [1.0], [1.0], [2.0]])
    np.testing.assert_array_equal(perturb.weakest(ties, 0.5)[:, 0], [False] * 4)
    filters = jnp.array([[1.0, 5.0, 3.0]])
    np.testing.assert_array_equal(perturb.weakest(filters, 0.7, "filter"), [[True, False, True]])
    spatial = jnp.stack([kernel, kernel])[None]  # [1, 2, 4, 2]: the 2-D kernels rank alike
    np.testing.assert_array_equal(perturb.weakest(spatial, 0.5)[0, 0], by_weight)
    assert perturb.weakest(kernel, 1.0).all()
