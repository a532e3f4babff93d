"""Batch Bridgeout in PyTorch: that of ``bbo.noise.targeting``, on kernels [out, in, kh, kw]."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bbo.settings.noise_section import NoiseConfig

EPSILON = 1e-12
"""That of ``bbo.noise.targeting``."""


class Bridgeout(torch.autograd.Function):
    """``w + (|w| + eps)**(q/2) * xi`` with its analytic derivative, which is 1 at ``w = 0``.

    The derivative is all that is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, xi: Tensor, q: float) -> Tensor:
        """The noisy weights, of the shape of ``w`` and ``xi``."""
        magnitude = w.abs().add_(EPSILON)
        power = magnitude.pow(q / 2)
        noisy = torch.addcmul(w, power, xi)
        slope = power.div_(magnitude).mul_(w.sign()).mul_(xi).mul_(q / 2).add_(1)
        ctx.save_for_backward(slope)
        return noisy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """That with respect to ``w``."""
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def weakest(w: Tensor, fraction: float, unit: str) -> Tensor:
    """The mask of ``bbo.perturb.weakest`` for a kernel [out, in, kh, kw]; it broadcasts to it."""
    if unit == "filter":
        norms = torch.linalg.vector_norm(w, dim=(1, 2, 3))
        return _below_rank(norms, fraction).view(-1, 1, 1, 1)
    if unit == "kernel":
        norms = torch.linalg.vector_norm(w, dim=(2, 3))
        return _below_rank(norms, fraction)[:, :, None, None]
    return _below_rank(w.abs().flatten(1), fraction).view(w.shape)


def _below_rank(norms: Tensor, fraction: float) -> Tensor:
    rank = int(norms.shape[-1] * fraction)
    return norms < norms.kthvalue(rank + 1, dim=-1, keepdim=True).values


def draw_xi(w: Tensor, noise: NoiseConfig) -> Tensor:
    """A fresh ``xi`` of the shape of a kernel, zero in the units that are not targeted."""
    with torch.no_grad():
        xi = torch.empty_like(w).bernoulli_(1 - noise.rate).div_(1 - noise.rate).sub_(1)
        if noise.target_fraction != 1:
            xi.mul_(weakest(w, noise.target_fraction, noise.target_unit))
    return xi


class NoisyConv2d(nn.Conv2d):
    """A convolution with Batch Bridgeout on its kernel, drawn anew at each call in training."""

    noise: NoiseConfig

    def forward(self, images: Tensor) -> Tensor:
        """[n, in, h, w] to [n, out, h', w']."""
        kernel = self.weight
        if self.training:
            kernel = Bridgeout.apply(kernel, draw_xi(kernel, self.noise), self.noise.q)
        return functional.conv2d(images, kernel, self.bias, self.stride, self.padding)
