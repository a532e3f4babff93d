"""Training steps in PyTorch, beside which those of ``bbo`` are measured: see ``benchmark``.

A step does what ours does: it takes a batch of uint8 images that lie on the device, augments and
normalises them there, and updates the network by SGD. The learning rate is constant. Each variant
is a way of running it that may be the fastest.
"""

import itertools
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bbo.settings.config import ExperimentConfig
from bbo.types import Array, require
from experiments.benchmark.pytorch.networks import create_network


class Variant(NamedTuple):
    """How a step is run."""

    channels_last: bool = False
    """Whether activations and kernels lie in memory as [n, h, w, c]."""
    autocast: str = ""
    """The dtype that convolutions and products compute in; empty: float32."""
    compile: bool = False
    """Whether by ``torch.compile``, on a GPU as one CUDA graph for each pass."""

    @property
    def text(self) -> str:
        """For tables.

        >>> Variant(channels_last=True, autocast="bfloat16", compile=True).text
        'channels_last bfloat16 compiled'
        """
        layout = "channels_last" if self.channels_last else "channels_first"
        dtype = self.autocast or "float32"
        return " ".join([layout, dtype, *["compiled"] * self.compile])


def find_device() -> str:
    """``cuda`` if there is a GPU that PyTorch can use, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def variants(device: str | None = None) -> list[Variant]:
    """Those worth measuring on a device, ``find_device()`` if none is given."""
    if (device or find_device()) == "cpu":
        return [Variant(), Variant(channels_last=True), Variant(True, "bfloat16")]
    choices = itertools.product(["", "bfloat16"], [False, True])
    return [Variant(True, autocast, compiled) for autocast, compiled in choices]


def describe() -> dict[str, Any]:
    """What ran: versions, threads and the device."""
    found = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if find_device() == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def synchronise() -> None:
    """Waits until all that was asked of the device is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Crops each image at random out of its zero-padded self, and flips it half of the time.

    Args:
      images: uint8 [n, h, w, c].
      padding: pixels of black on each side before the crop; 0 leaves the place alone.
      flip: whether to flip horizontally with probability 1/2.

    Returns:
      uint8 [n, h, w, c].
    """
    if not (padding or flip):
        return images
    count, height, width, _ = images.shape
    device = images.device
    # One gather does both; an image has its own row and column indices.
    top, left = torch.randint(2 * padding + 1, (2, count, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        turned = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    columns = left + columns
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    which = torch.arange(count, device=device)
    return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """``(x / 255 - mean) / std`` per channel, [c]: uint8 [n, h, w, c] to float32 of that shape."""
    return (images / 255 - mean) / std


def batches(count: int, size: int, *, device: str) -> Iterator[Tensor]:
    """Places of images, int64 [size], without end: a new random order for each pass."""
    while True:
        order = torch.randperm(count, device=device)
        yield from order[: count // size * size].split(size)


def create_update(
    config: ExperimentConfig, variant: Variant, *, network: nn.Module
) -> Callable[[Tensor, Tensor], Tensor]:
    """The step of one network on given images.

    Args:
      config: the dataset's facts, and the optimiser.
      variant: how it is run.
      network: from ``create_network``, on its device; it is changed by each call.

    Returns:
      from images, uint8 [n, h, w, c], and labels, int64 [n], to the loss. It may be on the way
      still, and holds until the next call.
    """
    info, settings = config.data.info, config.optimizer
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network.to(memory_format=layout).train()
    device = next(network.parameters()).device.type
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32; convolutions have it anyway
        torch.backends.cudnn.benchmark = True
    mean, std = (torch.tensor(x, device=device) for x in (info.mean, info.std))
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        if config.data.augment:
            images = augment(images, padding=info.padding, flip=info.flip)
        images = normalise(images, mean=mean, std=std)
        images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        with torch.autocast(device, torch.bfloat16, enabled=variant.autocast == "bfloat16"):
            logits = network(images)
            return functional.cross_entropy(
                logits, labels, label_smoothing=settings.label_smoothing
            )

    compiled = loss_of
    if variant.compile:
        compiled = torch.compile(loss_of, mode="reduce-overhead", fullgraph=True)

    def update(images: Tensor, labels: Tensor) -> Tensor:
        loss = compiled(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return update


def create_step(
    config: ExperimentConfig,
    variant: Variant,
    images: Array,
    labels: Array,
    *,
    device: str | None = None,
) -> Callable[[], Tensor]:
    """A training step on random batches, with fresh weights; each call takes one.

    Args:
      config: all settings.
      variant: how it is run.
      images: uint8 [n, h, w, c]; they are put on the device.
      labels: integers [n].
      device: ``find_device()`` if none is given.

    Returns:
      from nothing to the loss, see ``create_update``; ``synchronise`` waits for it.

    Raises:
      UsageError: there are fewer images than a batch takes, or see ``create_network``.
    """
    size = config.train.batch_size
    require(size <= len(images), "batch_size", size, f"at most {len(images)} (images)")
    device = device or find_device()
    torch.manual_seed(config.train.seed)
    images = torch.tensor(np.asarray(images), device=device)
    labels = torch.tensor(np.asarray(labels), device=device).long()
    update = create_update(config, variant, network=create_network(config).to(device))
    places = batches(len(images), size, device=device)

    def step() -> Tensor:
        chosen = next(places)
        return update(images[chosen], labels[chosen])

    return step


def loop_of(step: Callable[[], Tensor]) -> Callable[[int], None]:
    """``loop(n)`` takes n steps and waits for the last."""

    def loop(calls: int) -> None:
        for _ in range(calls):
            step()
        synchronise()

    return loop
