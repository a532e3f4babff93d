"""Any function refitted: as Linen layers are, and in any layout that a product may have."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from jax import lax

from bbo import pruning, trees
from bbo.pruning import recovery
from bbo.pruning.recovery import biases, least_squares, solver
from bbo.pruning.recovery.functions import correct_function, fitted_kernels, refit_function
from bbo.types import UsageError


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(solver, "TOLERANCE", 1e-13)
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape))


def holed(x, share=0.4):
    """Some entries zero."""
    return jnp.where(jnp.asarray(np.random.default_rng(5).random(x.shape)) < share, 0, x)


@functools.cache
def bundled(name, conv_bias):
    """A small network of the family in float64, before and after pruning of single weights."""
    with jax.enable_x64(True):
        model = networks.build(name, width=1 / 16, conv_bias=conv_bias, dtype=jnp.float64)
        images = networks.random_images(name, count=8).astype(jnp.float64)
        like = jax.eval_shape(model.init, jax.random.key(0), images)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), like)
        dense = networks.fill(like)
        params = jax.tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, dense["params"])
        dense = dense | {"params": params}
        kernels = trees.map_named(lambda n, x: holed(x) if n.endswith("kernel") else x, params)

    def train(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    return model, dense, dense | {"params": kernels}, images, train


def check_same(found, expected, rtol=1e-9):
    found, expected = trees.flatten(found), trees.flatten(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("name", "conv_bias"),
    [
        ("small_cnn", False),
        ("small_cnn", True),
        pytest.param("wrn10_1", False, marks=pytest.mark.slow),
    ],
)
def test_refit_is_that_of_linen_layers(name, conv_bias):
    model, dense, pruned, images, train = bundled(name, conv_bias)
    linen = functools.partial(least_squares.refit, model, norm=pruning.norm_of)
    expected = jax.jit(linen)(dense, pruned, images)
    found = jax.jit(functools.partial(refit_function, train))(dense, pruned, images)
    check_same(found, expected)
    moved = [
        (x != trees.flatten(pruned)[name]).any()
        for name, x in trees.flatten(found).items()
        if name.endswith("kernel")
    ]
    assert all(moved)
    fitted = fitted_kernels(train, pruned, images)
    assert set(fitted.values()) == {""}
    kernels = [name for name in trees.flatten(dense) if name.endswith("kernel")]
    behind = [name.replace("kernel", "bias") for name in kernels]
    assert set(fitted) == {*kernels, *(behind if conv_bias else ["params/head/bias"])}


def test_correction_is_that_of_linen_layers():
    model, dense, pruned, images, train = bundled("small_cnn", True)
    correct = functools.partial(biases.correct_biases, model, norm=pruning.norm_of)
    found = jax.jit(functools.partial(correct_function, train))(dense, pruned, images)
    check_same(found, jax.jit(correct)(dense, pruned, images))
    moved = [
        name for name, x in trees.flatten(found).items() if (x != trees.flatten(pruned)[name]).any()
    ]
    assert moved == ["params/head/bias"]


def ridge_by_hand(read, wanted, rows, kept, ridge=1e-3):
    """Each output by itself."""
    level, fitted = ridge * np.mean(np.square(read)), np.array(rows)
    for column in range(rows.shape[1]):
        a = read[:, kept[:, column]]
        missing = wanted[:, column] - read @ rows[:, column]
        gram = a.T @ a / len(a) + level * np.eye(a.shape[1])
        fitted[kept[:, column], column] += np.linalg.solve(gram, a.T @ missing / len(a))
    return fitted


PRODUCTS = {
    "plain": ("ni,io->no", (9, 5), (5, 4)),
    "the kernel first": ("oi,ni->on", (9, 5), (4, 5)),
    "several contracted": ("nabc,cbo->nao", (9, 2, 3, 2), (2, 3, 4)),
    "several free": ("nti,hid->nthd", (9, 2, 5), (2, 5, 3)),
    "one example": ("i,io->o", (5,), (5, 4)),
}


@pytest.mark.parametrize(("equation", "read", "kernel"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_with_any_axes(equation, read, kernel):
    def network(w, x):
        return jnp.tanh(jnp.einsum(equation, x, w))

    x, w = draw(*read), draw(*kernel, seed=1)
    found = refit_function(network, w, holed(w), x)
    inputs, output = equation.split("->")
    a, b = inputs.split(",")
    (a, b) = (a, b) if equation != "oi,ni->on" else (b, a)
    summed = [axis for axis in a if axis in b]
    free = [axis for axis in b if axis not in summed]
    outer = [axis for axis in a if axis not in summed]
    matrix = lambda v, at, axes, n: np.einsum(f"{at}->{''.join(axes)}", v).reshape(n, -1)  # noqa: E731
    features = int(np.prod([kernel[b.index(axis)] for axis in summed]))
    rows = matrix(x, a, outer + summed, x.size // features)
    old, new = (matrix(v, b, summed + free, features) for v in (w, holed(w)))
    expected = ridge_by_hand(rows, rows @ old, new, new != 0)
    np.testing.assert_allclose(matrix(found, b, summed + free, features), expected, rtol=1e-9)


CONVOLUTIONS = {
    "2-D": (("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 1), "padding": "SAME"}),
    "torch": (("NCHW", "OIHW", "NCHW"), {"window_strides": (1, 1), "padding": [(0, 2), (1, 0)]}),
    "dilated": (
        ("HWNC", "IOHW", "NCHW"),
        {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (1, 2)},
    ),
    "transposed": (
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (1, 1), "padding": [(1, 1), (1, 1)], "lhs_dilation": (2, 2)},
    ),
    "1-D": (("NWC", "WIO", "NWC"), {"window_strides": (2,), "padding": "SAME"}),
    "3-D": (("NCDHW", "DHWIO", "NCDHW"), {"window_strides": (1, 1, 2), "padding": "VALID"}),
}


@pytest.mark.parametrize(("numbers", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_in_any_layout(numbers, options, monkeypatch):
    """What is read at each position is the derivative of the output by the kernel."""
    monkeypatch.setattr(solver, "CHUNK", 3)
    sizes = {"N": 7, "C": 2, "I": 2, "O": 3}
    x = draw(*(sizes.get(axis, 5) for axis in numbers[0]))
    w = draw(*(sizes.get(axis, 2) for axis in numbers[1]), seed=1)

    def network(w, x):
        out = lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)
        return jnp.moveaxis(out, numbers[2].index("C"), -1)

    found = refit_function(network, w, holed(w), x)
    first = numbers[1].index("O")
    read = jax.jacobian(lambda w: network(w, x)[..., 0])(w)
    read = np.asarray(read.take(0, axis=-w.ndim + first)).reshape(-1, w.size // 3)
    old, new, fitted = (
        np.moveaxis(np.asarray(v), first, -1).reshape(-1, 3) for v in (w, holed(w), found)
    )
    np.testing.assert_allclose(read @ old, network(w, x).reshape(-1, 3), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        fitted, ridge_by_hand(read, read @ old, new, new != 0), rtol=1e-9, atol=1e-12
    )


def norm(x, axes):
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


CONSTANTS = {
    "nothing": (lambda y, b: y, False, False),
    "a bias": (lambda y, b: y + b, True, False),
    "a bias before the result is rearranged": (lambda y, b: b + y.reshape(4, 3, 4), True, False),
    "a bias for all outputs": (lambda y, b: y + b[0], False, False),
    "a norm over examples": (lambda y, b: norm(y, 0), False, True),
    "a bias and a norm": (lambda y, b: norm(y + b, 0), True, True),
    "a norm over channels": (lambda y, b: norm(y, 1), False, False),
    "running statistics": (lambda y, b: (y - b) / 2, False, False),
    "a deviation": (lambda y, b: y / jnp.std(y, 0), False, False),
}


@pytest.mark.parametrize(("behind", "biased", "centred"), CONSTANTS.values(), ids=CONSTANTS)
def test_what_follows_says_whether_there_is_a_constant(behind, biased, centred):
    x, w, b = draw(12, 5) + 1, draw(5, 4, seed=1), draw(4, seed=2)
    b = b.at[1].set(0)  # counts as removed
    dense, pruned = {"w": w, "b": b}, {"w": holed(w), "b": b}
    found = refit_function(lambda v, x: behind(x @ v["w"], v["b"]), dense, pruned, x)
    read, old, new = np.asarray(x), np.asarray(w), np.asarray(holed(w))
    if biased or centred:
        read = np.concatenate([read, np.ones((12, 1))], 1)
        constant = np.asarray(b)[None] if biased else np.zeros((1, 4))
        old, new = (np.concatenate([rows, constant]) for rows in (old, new))
    kept = new != 0
    kept[5:] |= centred and not biased
    expected = ridge_by_hand(read, read @ old, new, kept)
    np.testing.assert_allclose(found["w"], expected[:5], rtol=1e-9)
    np.testing.assert_allclose(found["b"], expected[5] if biased else b, rtol=1e-9)


def test_kernels_that_cannot_be_fitted_are_named():
    weights = {
        "batch": draw(2, 3, 3),
        "fitted": draw(3, 3),
        "grouped": draw(3, 1, 3),
        "looped": draw(2, 3, 3),
        "masked": draw(3, 3),
        "repeated": draw(3, 1),
        "shared": draw(3, 3),
        "unread": draw(3, 3),
        "offset": draw(3),
        "left": draw(3, 2),
        "right": draw(2, 3),
    }

    def network(w, x):
        x = x @ (w["left"] @ w["right"])
        x = jnp.einsum("gni,gio->gno", jnp.stack([x, x]), w["batch"]).sum(0)
        x = jnp.tanh(jax.jit(jnp.matmul)(x, w["fitted"]) + w["offset"])
        x = lax.conv_general_dilated(
            x[:, None], w["grouped"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=3,
        )[:, 0]  # fmt: skip
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w["looped"])
        x = x @ (w["masked"] * 2) + x @ jnp.broadcast_to(w["repeated"], (3, 3))
        return x @ w["shared"] @ w["shared"]

    found = fitted_kernels(network, weights, draw(4, 3))
    expected = {
        "batch": "a stack of kernels",
        "fitted": "",
        "grouped": "grouped",
        "left": "depends on no input",
        "looped": "within scan",
        "offset": "",
        "masked": "no product reads it, but mul",
        "repeated": "repeated",
        "right": "depends on no input",
        "shared": "read more than once",
    }
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in found[name] and bool(reason) == bool(found[name]), name
    assert list(found) == sorted(found)
    pruned = jax.tree.map(holed, weights)
    mended = refit_function(network, weights, pruned, draw(4, 3))
    assert [name for name in weights if (mended[name] != pruned[name]).any()] == [
        "fitted",
        "offset",
    ]
    with pytest.raises(UsageError, match="no kernel of the function can be fitted; shared: it is"):
        refit_function(lambda w, x: x @ w["shared"] @ w["shared"], weights, pruned, draw(4, 3))
    with pytest.raises(UsageError, match="not variables of one network"):
        refit_function(network, weights, pruned | {"left": draw(3, 1)}, draw(4, 3))


def test_biases_give_back_the_mean_of_every_layer():
    x, dense = draw(20, 3), {"a": draw(3, 4), "b": draw(4), "c": draw(2, 4), "d": draw(2)}
    pruned = dense | {"a": holed(dense["a"]).at[:, 0].set(0), "b": dense["b"].at[0].set(0)}

    def network(w, x):
        return (w["c"] @ jnp.tanh(x @ w["a"] + w["b"]).T).T + w["d"]

    mended = recovery.correct_function(network, dense, pruned, x)
    shift = (x @ (dense["a"] - pruned["a"])).mean(0) + dense["b"] - pruned["b"]
    np.testing.assert_allclose(mended["b"], [0, *(pruned["b"] + shift)[1:]], rtol=1e-10)
    np.testing.assert_allclose(network(mended, x).mean(0), network(dense, x).mean(0), rtol=1e-10)
    with pytest.raises(UsageError, match="behind no kernel is a bias"):
        recovery.correct_function(lambda w, x: x @ w["a"], dense, pruned, x)


@jax.custom_vjp
def own_derivative(w, x):
    return jnp.tanh(x @ w)


own_derivative.defvjp(lambda w, x: (own_derivative(w, x), ()), lambda kept, g: (g, g))


def test_kernels_within_a_function_with_its_own_derivative_are_fitted():
    x, w = draw(9, 5), draw(5, 4)
    found = refit_function(lambda w, x: jax.nn.relu(own_derivative(w, x)), w, holed(w), x)
    expected = refit_function(lambda w, x: jnp.tanh(x @ w), w, holed(w), x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found != holed(w)).any()
