"""Elementary noise: golden values of the authors' program, gradients near zero, targeting."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bbo.noise import regulariser
from bbo.noise.bridgeout import EPSILON, bridgeout_perturb, group_perturb
from bbo.noise.dropout import drop
from bbo.noise.targeting import weakest, weakest_maps

RATE = 0.3


def to_hwio(w):
    return np.transpose(w, (2, 3, 1, 0)) if w.ndim == 4 else w.T


def perturb_as_trained(w, keep, case):
    """The transform of the pipeline with the recorded draw in place of a random one."""
    rate, fraction = case["drop_rate"], case["target_fraction"]
    if case["kind"] == "bridgeout":
        xi = jnp.where(weakest(w, fraction, "kernel"), regulariser.centred(keep, rate), 0.0)
        return bridgeout_perturb(w, xi, case["q"])
    mask = jax.vmap(lambda x: weakest_maps(x, fraction))(w)
    return drop(w, jnp.where(mask, regulariser.centred(keep, rate), 0.0))


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


def test_golden(golden_dir):
    recorded = np.load(golden_dir / "noise.npz")
    for number, case in enumerate(json.loads((golden_dir / "noise.json").read_text())):
        layout = layout_of(case)
        names = ("w", "keep", "upstream", "out", "grad")
        arrays = {name: layout(recorded[f"{number}/{name}"]) for name in names}
        value, gradient = value_and_gradient(case, arrays)
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, arrays["out"], rtol=1e-12, err_msg=f"case {number}")
        np.testing.assert_allclose(gradient, arrays["grad"], rtol=1e-9, err_msg=f"case {number}")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("q", [0.01, 0.5, 1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("transform", [bridgeout_perturb, group_perturb])
def test_gradients_are_finite_near_zero(dtype, q, transform):
    w = jnp.array([0.0, -0.0, 1e-38, -1e-30, 1e-12, 1.0], dtype).reshape(1, 6)
    xi = jnp.array([[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]], dtype)
    value, pullback = jax.vjp(lambda w: transform(w, xi, q), w)
    (gradient,) = pullback(jnp.ones_like(value))
    assert value.dtype == gradient.dtype == dtype
    assert np.isfinite(np.asarray(value, np.float32)).all()
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    np.testing.assert_array_equal(np.asarray(gradient[0, :2], np.float32), 1.0)


@pytest.mark.parametrize("transform", [bridgeout_perturb, group_perturb])
def test_derivatives_match_finite_differences(transform):
    with jax.enable_x64(True):
        w = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
        keep = regulariser.draw_keep(jax.random.key(1), (3, 4), RATE)
        xi = regulariser.centred(keep.astype(jnp.float64), RATE)
        check_grads(lambda w, xi: transform(w, xi, 1.5), (w, xi), order=1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_derivative_remembers_the_keep_mask(dtype):
    """Beside what was perturbed, one byte for each element: not xi, nor a factor of it."""
    w = jax.random.normal(jax.random.key(0), (3, 3, 8, 16), dtype)
    keep = regulariser.draw_keep(jax.random.key(1), w.shape, RATE)
    targeted = weakest(w, 0.5)
    bridgeout = functools.partial(bridgeout_perturb, q=1.5)

    def plainly(w):
        xi = regulariser.centred(keep.astype(jnp.float32), RATE)
        return bridgeout(w, jnp.where(targeted, xi, 0.0))

    noisy, pullback = jax.vjp(
        lambda w: regulariser.perturb_kept(bridgeout, w, keep, RATE, targeted), w
    )
    expected, expected_pullback = jax.vjp(plainly, w)
    large = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size == w.size]
    assert sorted(leaf.dtype.name for leaf in large) == sorted([w.dtype.name, "uint8"])
    np.testing.assert_array_equal(noisy, expected)
    np.testing.assert_array_equal(pullback(noisy)[0], expected_pullback(noisy)[0])


def test_targeting_by_hand():
    kernel = jnp.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [4.0, 4.0]])
    by_weight = [[False, True], [True, True], [True, False], [False, False]]
    np.testing.assert_array_equal(weakest(kernel, 0.5), by_weight)
    np.testing.assert_array_equal(weakest(kernel, 0.5, "weight"), by_weight)
    ties = jnp.array([[1.0], [1.0], [1.0], [2.0]])
    np.testing.assert_array_equal(weakest(ties, 0.5)[:, 0], [False] * 4)
    filters = jnp.array([[1.0, 5.0, 3.0]])
    np.testing.assert_array_equal(weakest(filters, 0.7, "filter"), [[True, False, True]])
    spatial = jnp.stack([kernel, kernel])[None]  # [1, 2, 4, 2]: the 2-D kernels rank alike
    np.testing.assert_array_equal(weakest(spatial, 0.5)[0, 0], by_weight)
    assert weakest(kernel, 1.0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_powers_by_roots(dtype, q):
    """The noise is ``|w|**(q/2)`` to a few units in the last place, and the slope likewise."""
    with jax.enable_x64(dtype == np.float64):
        w = jnp.asarray(np.logspace(-7, 3, 2001), dtype)
        noise, slope = jax.jvp(
            lambda w: bridgeout_perturb(w, jnp.ones_like(w), q), (w,), (jnp.ones_like(w),)
        )
        exact = np.asarray(w, np.longdouble) + np.longdouble(dtype(EPSILON))
        value = np.asarray(w, np.longdouble) + exact ** np.longdouble(q / 2)
        derivative = 1 + q / 2 * exact ** np.longdouble(q / 2 - 1)
        limit = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(np.asarray(noise, np.longdouble), value, rtol=limit)
        np.testing.assert_allclose(np.asarray(slope, np.longdouble), derivative, rtol=limit)


def by_sorting(norms, fraction, axis):
    rank = int(norms.shape[axis] * fraction)
    return norms < np.take(np.sort(norms, axis=axis), [rank], axis=axis)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "equal"])
def test_targeting_is_what_sorting_gives(kind, fraction):
    # Small whole numbers: sums of their squares are exact in whatever order they are added.
    w = np.random.default_rng(0).integers(-40, 40, (3, 3, 90, 5)).astype(np.float32)
    w = {"normal": w, "ties": w // 20, "zeros": w * (w > 20), "equal": np.ones_like(w)}[kind]
    flat = np.abs(w).reshape(-1, 5)
    squares = np.square(w)
    wanted = {
        "weight": by_sorting(flat, fraction, 0).reshape(w.shape),
        "kernel": by_sorting(squares.sum((0, 1), keepdims=True), fraction, -2),
        "filter": by_sorting(squares.sum((0, 1, 2), keepdims=True), fraction, -1),
    }
    for unit, mask in wanted.items():
        find = functools.partial(weakest, fraction=fraction, unit=unit)
        np.testing.assert_array_equal(find(w), mask, err_msg=unit)
        several = jax.jit(jax.vmap(find))(jnp.stack([w, w[..., ::-1, :]]))
        np.testing.assert_array_equal(several[0], mask, err_msg=unit)


def test_no_gradient_flows_through_targeting():
    w = jax.random.normal(jax.random.key(0), (3, 3, 80, 4))
    mask = weakest(w, 0.5)
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(jnp.where(weakest(w, 0.5), w, 0.0))))(w)
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(mask, w.shape))
