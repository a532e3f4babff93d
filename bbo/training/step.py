"""Training: the state, and one pure step."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bbo.noise.regulariser import Regulariser
from bbo.training.devices import AXIS
from bbo.types import Array, Batch, Params, PyTree, Rng

METRICS = ("loss", "accuracy")
"""What a step tells: means over its batch."""
EXAMPLE_AXIS = "example"
"""Name of the axis over which BatchNorm is synchronised when noise is drawn per example."""


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array
    params: Params
    batch_stats: PyTree
    opt_state: PyTree


class Recipe(NamedTuple):
    """How to train: what does not change from step to step."""

    model: nn.Module
    """Maps images to logits, as the networks of ``bbo.models`` do."""
    regulariser: Regulariser
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    """In [0, 1)."""
    mapped_axis: str | None = None
    """If the step is mapped over the devices, the name of their axis, to average over."""


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    rng: Rng,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Fresh parameters, in one compiled program.

    Args:
      model: maps images [n, h, w, c] to logits.
      optimizer: of the parameters.
      rng: of the initial weights.
      image_shape: (h, w, c).
    """

    def init(rng: Rng) -> TrainState:
        variables = model.init(rng, jnp.zeros((2, *image_shape)), train=False)
        params = variables["params"]
        opt_state = optimizer.init(params)
        return TrainState(
            jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), opt_state
        )

    return jax.jit(init)(rng)


def batch_axes(regulariser: Regulariser, *, mapped: bool) -> tuple[str, ...] | None:
    """The named axes that together make up a batch: BatchNorm averages over them.

    Args:
      regulariser: of which some draw for each example.
      mapped: the step is mapped over the devices, each of which sees its own rows of a batch.
    """
    axes = (AXIS,) if mapped else ()
    axes += (EXAMPLE_AXIS,) if regulariser.per_example else ()
    return axes or None


def noisy_forward(
    model: nn.Module,
    regulariser: Regulariser,
    variables: dict[str, PyTree],
    batch: Batch,
    rng: Rng,
) -> tuple[Array, PyTree]:
    """Logits [n, classes] in training mode under one draw of the noise, and new batch statistics.

    The draw depends on ``rng`` and on the examples' places in the global batch only.
    """
    weight_rng, activation_rng = jax.random.split(rng)
    on_weights = regulariser.weights or (lambda _, params: params)
    on_activations = regulariser.activations

    def forward(params: Params, image: Array, index: Array) -> tuple[Array, PyTree]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            image,
            train=True,
            noise=functools.partial(on_activations, index=index) if on_activations else None,
            mutable=["batch_stats"],
            rngs={"noise": activation_rng},
        )
        return logits, updates.get("batch_stats", {})

    def forward_one(image: Array, index: Array) -> tuple[Array, PyTree]:
        params = on_weights(jax.random.fold_in(weight_rng, index), variables["params"])
        logits, stats = forward(params, image[None], index[None])
        return logits[0], stats

    if regulariser.per_example:
        mapped = jax.vmap(forward_one, axis_name=EXAMPLE_AXIS, out_axes=(0, None))
        return mapped(batch["image"], batch["index"])
    params = on_weights(weight_rng, variables["params"])
    return forward(params, batch["image"], batch["index"])


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Softmax cross-entropy of each example, [n]; targets spread by ``smoothing`` in [0, 1)."""
    if smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def train_step(
    state: TrainState, batch: Batch, rng: Rng, recipe: Recipe
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one batch. Pure; the noise is drawn from ``fold_in(rng, state.step)``.

    Args:
      state: before.
      batch: ``image`` [n, h, w, c], ``label`` [n], ``index`` [n].
      rng: the run's key, the same at every step and on every device.
      recipe: network, noise and optimiser.

    Returns:
      the state after, and the means of ``loss`` and ``accuracy`` over the batch.
    """

    def loss_of(params: Params) -> tuple[Array, tuple[Array, PyTree]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        step_rng = jax.random.fold_in(rng, state.step)
        logits, stats = noisy_forward(recipe.model, recipe.regulariser, variables, batch, step_rng)
        loss = jnp.mean(cross_entropy(logits, batch["label"], recipe.label_smoothing))
        return loss, (logits, stats)

    (loss, (logits, stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    correct = jnp.argmax(logits, axis=-1) == batch["label"]
    metrics = {"loss": loss, "accuracy": jnp.mean(correct.astype(jnp.float32))}
    if recipe.mapped_axis:
        gradients, metrics = jax.lax.pmean((gradients, metrics), recipe.mapped_axis)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, stats, opt_state), metrics
