"""Statistics estimated anew through a training step of each framework, whatever its momentum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from bbo.pruning import recovery
from bbo.types import UsageError

ROWS = np.random.default_rng(0).standard_normal((23, 3)) * np.linspace(0.5, 3, 23)[:, None] + 2
PARTS = [ROWS[:16], ROWS[16:]]
"""Batches of 16 and of 7."""
KERNELS = [np.random.default_rng(k).standard_normal((3, 3)) for k in (1, 2)]
EPSILON = 1e-5


def wanted():
    """Mean and variance of what either norm reads: each batch normalised by its own moments."""
    first = [part @ KERNELS[0] for part in PARTS]
    normal = [(x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON) for x in first]
    second = [np.tanh(x) @ KERNELS[1] for x in normal]
    return [(x.mean(0), x.var(0)) for x in (np.concatenate(first), np.concatenate(second))]


class Linen(nn.Module):
    momentum: float
    dtype: type

    @nn.compact
    def __call__(self, x):
        for k in (1, 2):
            dtype = {"param_dtype": self.dtype}
            x = nn.Dense(3, use_bias=False, name=f"dense{k}", **dtype)(x)
            reduce = {"force_float32_reductions": False}
            x = nn.BatchNorm(False, momentum=self.momentum, name=f"norm{k}", **reduce, **dtype)(x)
            x = jnp.tanh(x)
        return x


def linen(momentum, *, whole=False, dtype=jnp.float64):
    model = Linen(momentum, dtype)
    variables = {
        "params": {
            name: leaf
            for k in (0, 1)
            for name, leaf in {
                f"dense{k + 1}": {"kernel": jnp.asarray(KERNELS[k], dtype)},
                f"norm{k + 1}": {"scale": jnp.ones(3, dtype), "bias": jnp.zeros(3, dtype)},
            }.items()
        },
        "batch_stats": {
            f"norm{k}": {"mean": jnp.full(3, 0.5, dtype), "var": jnp.full(3, 7.0, dtype)}
            for k in (1, 2)
        },
    }

    @jax.jit
    def train(variables, x):
        updates = model.apply(variables, x, mutable=["batch_stats"])[1]
        return variables | updates if whole else updates

    return train, variables, {}


def of_linen(mended):
    return [(s["mean"], s["var"]) for s in mended["batch_stats"].values()]


def of_nnx(momentum):
    class Net(nnx.Module):
        def __init__(self):
            rngs = {"rngs": nnx.Rngs(0)}
            norm = {"momentum": momentum, "use_fast_variance": False, **rngs}
            self.layers = nnx.List(nnx.Linear(3, 3, use_bias=False, **rngs) for _ in range(2))
            self.norms = nnx.List(nnx.BatchNorm(3, **norm) for _ in range(2))
            self.dropout = nnx.Dropout(0.0, rngs=nnx.Rngs(1))

        def __call__(self, x):
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = self.dropout(jnp.tanh(norm(layer(x))))

    network = Net()
    for layer, kernel in zip(network.layers, KERNELS, strict=True):
        layer.kernel[...] = jnp.asarray(kernel, jnp.float32)
    network.train()
    graph, state = nnx.split(network)

    @jax.jit
    def train(state, x):
        network = nnx.merge(graph, state)
        network(x)
        return nnx.state(network)

    def statistics(mended):
        norms = nnx.merge(graph, mended).norms
        return [(norm.mean[...], norm.var[...]) for norm in norms]

    return train, state, statistics


def of_equinox(mode, momentum):
    def make():
        return [eqx.nn.BatchNorm(3, "batch", mode=mode, momentum=momentum) for _ in KERNELS]

    norms, state = eqx.nn.make_with_state(make)()
    arrays, rest = eqx.partition(norms, eqx.is_array)

    def network(arrays, state, x, *, inference):
        read = []
        for norm, kernel in zip(eqx.combine(arrays, rest), KERNELS, strict=True):
            read.append(jnp.asarray(kernel).T @ x)
            x, state = norm(read[-1], state, inference=inference)
            x = jnp.tanh(x)
        return (read, x), state

    def batched(variables, x, *, inference):
        return jax.vmap(
            lambda row: network(*variables, row, inference=inference),
            axis_name="batch",
            out_axes=(0, None),
        )(x)

    @jax.jit
    def train(variables, x):
        return variables[0], batched(variables, x, inference=False)[1]

    return train, (arrays, state), lambda v, x: batched(v, x, inference=True)[0]


def haiku(decay):
    """Names and arithmetic of Haiku's ``ExponentialMovingAverage``."""
    state = {
        f"net/~/bn{k}/~/{kind}_ema": {
            "counter": jnp.int32(40),
            "hidden": jnp.full(3, 3.0),
            "average": jnp.full(3, 5.0),
        }
        for k in (1, 2)
        for kind in ("mean", "var")
    }

    def moved(old, value):
        counter = old["counter"] + 1
        hidden = old["hidden"] * decay + value * (1 - decay)
        return {
            "counter": counter,
            "hidden": hidden,
            "average": hidden / (1 - jnp.power(decay, counter.astype(float))),
        }

    @jax.jit
    def train(variables, x):
        params, state = variables
        new = {}
        for k, kernel in enumerate(params, 1):
            x = x @ kernel
            moments = {"mean": x.mean(0), "var": x.var(0)}
            for kind, value in moments.items():
                name = f"net/~/bn{k}/~/{kind}_ema"
                new[name] = moved(state[name], value)
            x = jnp.tanh((x - moments["mean"]) / jnp.sqrt(moments["var"] + EPSILON))
        return params, new

    return train, ([jnp.asarray(kernel) for kernel in KERNELS], state)


@pytest.fixture
def exact():
    with jax.enable_x64(True):
        yield


def check(found, rtol=1e-10):
    for pair, expected in zip(found, wanted(), strict=True):
        for value, number in zip(pair, expected, strict=True):
            np.testing.assert_allclose(value, number, rtol=rtol)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.999])
def test_linen_batches_count_by_their_sizes(exact, momentum, whole):
    train, variables, _ = linen(momentum, whole=whole)
    mended = recovery.reestimate(train, variables, PARTS)
    check(of_linen(mended))
    assert jax.tree.structure(mended) == jax.tree.structure(variables)
    for old, new in zip(
        jax.tree.leaves(variables["params"]), jax.tree.leaves(mended["params"]), strict=True
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("momentum", [0.0, 0.99, 0.999])
def test_the_momentum_costs_no_precision_in_float32(momentum):
    train, variables, _ = linen(momentum, dtype=jnp.float32)
    parts = [part.astype(np.float32) for part in PARTS]
    mended = recovery.reestimate(train, variables, parts)
    check(of_linen(mended), rtol=2e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(mended)} == {jnp.dtype("float32")}


def test_statistics_that_are_those_of_the_first_batch_are_pooled_all_the_same(exact):
    train, variables, _ = linen(0.0, whole=True)
    check(of_linen(recovery.reestimate(train, train(variables, PARTS[0]), PARTS)))


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_nnx(momentum):
    train, state, statistics = of_nnx(momentum)
    mended = recovery.reestimate(train, state, [jnp.asarray(part, jnp.float32) for part in PARTS])
    check(statistics(mended), rtol=3e-6)


def equinox_mean_of(name):
    return name[:-1] + "0" if name.endswith("/1") else None


@pytest.mark.parametrize("steps", [0, 3])
def test_equinox_normalises_by_the_pooled_moments(exact, steps):
    """Its statistics are corrected for the number of steps where they are read."""
    train, variables, infer = of_equinox("batch", 0.99)
    for _ in range(steps):
        variables = train(variables, jnp.asarray(PARTS[0]))
    mended = recovery.reestimate(train, variables, PARTS, mean_of=equinox_mean_of)
    leaves = [x for x in jax.tree.leaves(mended[1]) if jnp.shape(x)]
    check(zip(leaves[::2], leaves[1::2], strict=True))
    mean, variance = wanted()[0]
    (read, _), normal = infer(mended, ROWS), (ROWS @ KERNELS[0] - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(read[1], np.tanh(normal) @ KERNELS[1], rtol=1e-9)


def test_equinox_running_statistics_that_normalise_are_an_error(exact):
    train, variables, _ = of_equinox("ema", 0.9)
    check_first = recovery.reestimate(train, variables, PARTS, mean_of=equinox_mean_of)
    leaves = [x for x in jax.tree.leaves(check_first[1]) if jnp.shape(x)]
    check(zip(leaves[::2], leaves[1::2], strict=True))  # the first step takes the batch's own
    trained = train(variables, PARTS[0])
    with pytest.raises(UsageError, match="must normalise by the moments of the batch"):
        recovery.reestimate(train, trained, PARTS, mean_of=equinox_mean_of)


@pytest.mark.parametrize("decay", [0.4, 0.99])
def test_haiku_averages_and_what_training_makes_of_them_next(exact, decay):
    train, variables = haiku(decay)
    mended = recovery.reestimate(train, variables, PARTS)
    state = mended[1]
    for leaf in ("average", "hidden"):
        check(
            [state[f"net/~/bn{k}/~/{kind}_ema"][leaf] for kind in ("mean", "var")] for k in (1, 2)
        )
    after = train(mended, PARTS[0])[1]["net/~/bn1/~/mean_ema"]
    batch = (PARTS[0] @ KERNELS[0]).mean(0)
    expected = decay * wanted()[0][0] + (1 - decay) * batch
    np.testing.assert_allclose(after["average"], expected, rtol=1e-10)
