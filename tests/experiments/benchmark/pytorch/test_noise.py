"""The noise of the PyTorch side is ours: noisy weights, gradients, and what is targeted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_side import settings, to_torch

from bbo.noise import targeting as perturb
from bbo.noise.bridgeout import bridgeout_perturb
from bbo.settings.noise_section import NoiseConfig

torch = pytest.importorskip("torch")

from experiments.benchmark.pytorch import networks as torch_networks  # noqa: E402
from experiments.benchmark.pytorch import noise as torch_noise  # noqa: E402


def kernel(shape=(3, 3, 5, 7)):
    """One of ours, with zeros."""
    drawn = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    drawn.flat[::11] = 0
    return drawn


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_noisy_weights_and_gradient(q):
    w, seed = kernel(), np.random.default_rng(4)
    xi = np.where(seed.random(w.shape) < 0.7, 1 / 0.7 - 1, -1).astype(np.float32)
    outer = seed.standard_normal(w.shape).astype(np.float32)
    ours, pull = jax.vjp(lambda w: bridgeout_perturb(w, xi, q), w)
    leaf = to_torch(w).requires_grad_()
    theirs = torch_noise.Bridgeout.apply(leaf, to_torch(xi), q)
    theirs.backward(to_torch(outer))
    np.testing.assert_allclose(theirs.detach(), to_torch(ours), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(leaf.grad, to_torch(pull(outer)[0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", ["filter", "kernel", "weight"])
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (3, 3, 1, 4), (5, 3, 8, 2)])
@pytest.mark.parametrize("fraction", [0.3, 0.75])
def test_weakest(unit, shape, fraction):
    w = kernel(shape)
    ours = np.broadcast_to(perturb.weakest(jnp.asarray(w), fraction, unit), shape)
    theirs = torch_noise.weakest(to_torch(w), fraction, unit).expand(shape[3], shape[2], *shape[:2])
    assert np.array_equal(to_torch(ours), theirs)


def test_xi_is_centred_and_targeted():
    config = NoiseConfig(rate=0.3, target_fraction=0.5, target_unit="filter")
    torch.manual_seed(0)
    w = torch.randn(64, 16, 3, 3)
    xi = torch_noise.draw_xi(w, config)
    targeted = torch_noise.weakest(w, 0.5, "filter").expand_as(w)
    assert not xi[~targeted].any()
    drawn = xi[targeted].double().numpy()
    np.testing.assert_allclose(np.unique(drawn), [-1, 3 / 7], rtol=1e-6)
    # Of variance rate / (1 - rate).
    assert abs(drawn.mean()) < 4 * np.sqrt(3 / 7 / drawn.size)


def test_noise_is_on_spatial_kernels_in_training():
    network = torch_networks.create_network(settings("thin_resnet18", noise="batch_bridgeout"))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            noisy = isinstance(module, torch_noise.NoisyConv2d)
            assert noisy == (module.kernel_size == (3, 3))
    images = torch.randn(2, 3, 32, 32)
    clean = torch.nn.functional.conv2d(images, network.stem.weight, padding=1)
    assert torch.equal(network.stem.eval()(images), clean)
    assert not torch.equal(network.stem.train()(images), clean)
