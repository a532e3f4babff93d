"""The compiled programs of a run; each is traced once and serves every epoch and pruning point."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bbo import data, evaluate, sharding, train
from bbo.catalog import DATASETS
from bbo.config import ExperimentConfig
from bbo.models import create_model
from bbo.noise import create_regulariser
from bbo.types import Array, Batch, Params, PyTree, Rng


class Images(NamedTuple):
    """A split on the devices, with the key of the randomness applied to it."""

    image: Array
    """uint8 [n, h, w, c]."""
    label: Array
    """int32 [n]."""
    rng: Rng


class Programs(NamedTuple):
    """All that is compiled; ``choice`` holds ``row`` [b] of the split and ``index`` [b]."""

    model: nn.Module
    """The network, as it is evaluated."""
    train: Callable[[train.TrainState, Images, PyTree], tuple[train.TrainState, dict[str, Array]]]
    evaluate: Callable[[PyTree, Images, PyTree], dict[str, Array]]
    moments: Callable[[PyTree, Images, PyTree], PyTree]
    """BatchNorm statistics of one augmented batch, without noise."""
    gradients: Callable[[PyTree, Images, PyTree], Params]
    """Of the loss on one batch, in evaluation mode."""


def create_programs(
    config: ExperimentConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Programs:
    """Compiles nothing yet: each program is compiled at its first call."""
    info = DATASETS[config.data.dataset]
    dtype = jnp.dtype(config.train.dtype)
    regulariser = create_regulariser(config.noise)
    make_model = functools.partial(
        create_model, config.model, num_classes=info.num_classes, dtype=dtype
    )
    plain = make_model()
    # With momentum 0 the running statistics become those of the batch.
    measuring = create_model(
        dataclasses.replace(config.model, norm_momentum=0.0, final_norm_momentum=0.0),
        num_classes=info.num_classes,
        dtype=dtype,
    )
    recipe = train.Recipe(
        model=make_model(axis_name=train.batch_axes(regulariser, config.train.parallel)),
        regulariser=regulariser,
        optimizer=optimizer,
        label_smoothing=config.optimizer.label_smoothing,
        mapped_axis=sharding.AXIS if config.train.parallel == "pmap" else None,
    )

    def batch_of(images: Images, choice: PyTree, rng: Rng | None = None) -> Batch:
        """Chosen images, augmented if there is a key, and normalised."""
        pixels, index = images.image[choice["row"]], choice["index"]
        if rng is not None and config.data.augment:
            pixels = data.augment(rng, pixels, index=index, padding=info.padding, flip=info.flip)
        return {
            "image": data.normalize(pixels, info.mean, info.std, dtype),
            "label": images.label[choice["row"]],
            "index": index,
        }

    def train_step(state: train.TrainState, images: Images, choice: PyTree) -> Any:
        augment_rng, noise_rng = jax.random.split(images.rng)
        batch = batch_of(images, choice, jax.random.fold_in(augment_rng, state.step))
        return train.train_step(state, batch, noise_rng, recipe)

    def evaluate_batch(variables: PyTree, images: Images, choice: PyTree) -> dict[str, Array]:
        batch = batch_of(images, choice)
        logits = plain.apply(variables, batch["image"], train=False)
        return evaluate.batch_sums(logits, batch["label"], choice["valid"])

    def batch_moments(variables: PyTree, images: Images, choice: PyTree) -> PyTree:
        batch = batch_of(images, choice, jax.random.fold_in(images.rng, choice["row"][0]))
        _, updates = measuring.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return updates["batch_stats"]

    def gradients(variables: PyTree, images: Images, choice: PyTree) -> Params:
        batch = batch_of(images, choice)

        def loss(params: Params) -> Array:
            logits = plain.apply(variables | {"params": params}, batch["image"], train=False)
            return jnp.mean(train.cross_entropy(logits, batch["label"]))

        return jax.grad(loss)(variables["params"])

    return Programs(
        model=plain,
        train=sharding.parallelise(train_step, parallel=config.train.parallel, mesh=mesh),
        evaluate=jax.jit(evaluate_batch),
        moments=jax.jit(batch_moments),
        gradients=jax.jit(gradients),
    )
