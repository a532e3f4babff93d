"""Training: the state, and one pure step."""

import functools
import zlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bbo.noise.regulariser import Regulariser, masked, none, paused
from bbo.training.devices import AXIS
from bbo.training.optimizer import HoldState, zero_where_held
from bbo.types import Array, Batch, Params, PyTree, Rng

CLEAN = zlib.crc32(b"whether a step is clean")
"""What the key of a step is folded with to draw that."""
METRICS = ("loss", "accuracy")
"""What a step tells: means over its batch; the loss with the regulariser's penalty in it."""
EXAMPLE_AXIS = "example"
"""Name of the axis over which BatchNorm is synchronised when noise is drawn per example."""


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array
    params: Params
    batch_stats: PyTree
    opt_state: PyTree
    average: PyTree = ()
    """Moving averages of parameters and batch statistics, a pair; nothing if there are none."""


class Clean(NamedTuple):
    """How the network without noise is trained beside the noisy one."""

    share: float = 0.0
    """Of the training, in [0, 1)."""
    each_step: bool = False
    """Of the loss at each step; otherwise of the steps, drawn at random."""
    distill: float = 0.0
    """Share of the noisy network's target that the clean one's output is, in [0, 1]."""
    ascent: float = 0.0
    """With ``each_step``: length of the step along the clean gradient to where noise is put on."""


class Recipe(NamedTuple):
    """How to train: what does not change from step to step."""

    model: nn.Module
    """Maps images to logits, as the networks of ``bbo.models`` do."""
    regulariser: Regulariser
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    """In [0, 1)."""
    clean: Clean = Clean()
    """What the network without noise gets of the training."""
    average_decay: float = 0.0
    """Of the moving averages in the state, in [0, 1); 0 keeps none."""
    mapped_axis: str | None = None
    """If the step is mapped over the devices, the name of their axis, to average over."""
    own_norms: bool = False
    """BatchNorm has other statistics on each device, of which the running ones are the means."""


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    rng: Rng,
    image_shape: tuple[int, int, int],
    *,
    averaged: bool = False,
) -> TrainState:
    """Fresh parameters, in one compiled program.

    Args:
      model: maps images [n, h, w, c] to logits.
      optimizer: of the parameters.
      rng: of the initial weights.
      image_shape: (h, w, c).
      averaged: whether the state holds moving averages.
    """

    def init(rng: Rng) -> TrainState:
        variables = model.init(rng, jnp.zeros((2, *image_shape)), train=False)
        params = variables["params"]
        stats, step = variables.get("batch_stats", {}), jnp.zeros((), jnp.int32)
        average = (params, stats) if averaged else ()
        return TrainState(step, params, stats, optimizer.init(params), average)

    return jax.jit(init)(rng)


def batch_axes(regulariser: Regulariser, *, mapped: bool) -> tuple[str, ...] | None:
    """The named axes that together make up a batch: BatchNorm averages over them.

    Args:
      regulariser: of which some draw for each example.
      mapped: the step is mapped over the devices, of which each sees its own rows of a batch, and
        these are not to be a batch by themselves.
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
    if regulariser.network:
        return regulariser.network(variables, batch["image"]), variables["batch_stats"]
    weight_rng, activation_rng = jax.random.split(rng)
    on_weights, on_activations = regulariser.weights, regulariser.activations
    # Without noise the network has no place for it, and draws no keys.
    noisy = regulariser.perturbs_activations

    def forward(params: Params, image: Array, index: Array) -> tuple[Array, PyTree]:
        logits, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            image,
            train=True,
            noise=functools.partial(on_activations, index=index) if noisy else None,
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

    What an optimiser that ``hold``s leaves at zero has no part in the step, under noise either.

    Args:
      state: before.
      batch: ``image`` [n, h, w, c], ``label`` [n], ``index`` [n].
      rng: the run's key, the same at every step and on every device.
      recipe: network, noise and optimiser.

    Returns:
      the state after, and the means of ``loss`` and ``accuracy`` over the batch.
    """
    if isinstance(state.opt_state, HoldState):
        of_the_rest = masked(recipe.regulariser, state.opt_state.masks)
        recipe = recipe._replace(regulariser=of_the_rest)
    learn = _learn_both if recipe.clean.share and recipe.clean.each_step else _learn_one
    gradients, stats, metrics = learn(state, batch, jax.random.fold_in(rng, state.step), recipe)
    if recipe.mapped_axis:
        gradients, metrics = jax.lax.pmean((gradients, metrics), recipe.mapped_axis)
    if recipe.own_norms:
        stats = jax.lax.pmean(stats, recipe.mapped_axis)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = ()
    if recipe.average_decay:
        average = _averaged(state.average, (params, stats), state.step, recipe.average_decay)
    return TrainState(state.step + 1, params, stats, opt_state, average), metrics


def _averaged(average: PyTree, new: PyTree, step: Array, decay: float) -> PyTree:
    """The moving average after ``step`` earlier ones; at first it forgets the beginning sooner."""
    count = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(
        lambda old, now: (kept * old + (1 - kept) * now).astype(now.dtype), average, new
    )


Learned = tuple[Params, PyTree, dict[str, Array]]
"""Gradients, the batch statistics after, and metrics."""


def _learn_one(state: TrainState, batch: Batch, rng: Rng, recipe: Recipe) -> Learned:
    """From the noisy network, or in some steps from the one without noise."""
    clean, regulariser, is_clean = recipe.clean, recipe.regulariser, jnp.asarray(False)
    if clean.share:
        is_clean = jax.random.bernoulli(jax.random.fold_in(rng, CLEAN), clean.share)
        regulariser = paused(regulariser, is_clean)

    def loss_of(params: Params) -> tuple[Array, tuple[Array, PyTree]]:
        logits, stats = _forward(params, regulariser, state, batch, rng, recipe)
        penalty = regulariser.penalty(params)
        if not clean.distill:
            return _loss(logits, batch, recipe) + penalty, (logits, stats)

        def taught() -> Array:
            return _forward(state.params, none(), state, batch, rng, recipe)[0]

        # A clean step needs no teacher, and is spared the time.
        said = jax.lax.cond(is_clean, lambda: logits, taught) if clean.share else taught()
        weight = clean.distill * (~is_clean).astype(logits.dtype)
        return _loss(logits, batch, recipe, said=said, weight=weight) + penalty, (logits, stats)

    (loss, (logits, stats)), slopes = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    if clean.share:
        stats = jax.tree.map(
            lambda new, old: jnp.where(is_clean, new, old), stats, state.batch_stats
        )
    return slopes, stats, {"loss": loss, "accuracy": _accuracy(logits, batch)}


def _learn_both(state: TrainState, batch: Batch, rng: Rng, recipe: Recipe) -> Learned:
    """From the network without noise, whose statistics and accuracy count, and the noisy one."""
    clean = recipe.clean

    def clean_loss(params: Params) -> tuple[Array, tuple[Array, PyTree]]:
        logits, stats = _forward(params, none(), state, batch, rng, recipe)
        return _loss(logits, batch, recipe), (logits, stats)

    def noisy_loss(params: Params) -> Array:
        logits, _ = _forward(params, recipe.regulariser, state, batch, rng, recipe)
        loss = _loss(logits, batch, recipe, said=clean_logits, weight=clean.distill)
        return loss + recipe.regulariser.penalty(params)

    found, slopes = jax.value_and_grad(clean_loss, has_aux=True)(state.params)
    first, (clean_logits, stats) = found
    point = _ascended(state.params, zero_where_held(slopes, state.opt_state), clean.ascent)
    second, noisy_slopes = jax.value_and_grad(noisy_loss)(point)

    def mixed(a: Array, b: Array) -> Array:
        return clean.share * a + (1 - clean.share) * b

    metrics = {"loss": mixed(first, second), "accuracy": _accuracy(clean_logits, batch)}
    return jax.tree.map(mixed, slopes, noisy_slopes), stats, metrics


def _forward(
    params: Params,
    regulariser: Regulariser,
    state: TrainState,
    batch: Batch,
    rng: Rng,
    recipe: Recipe,
) -> tuple[Array, PyTree]:
    variables = {"params": params, "batch_stats": state.batch_stats}
    return noisy_forward(recipe.model, regulariser, variables, batch, rng)


def _loss(
    logits: Array,
    batch: Batch,
    recipe: Recipe,
    *,
    said: Array | None = None,
    weight: float | Array = 0.0,
) -> Array:
    """Mean cross-entropy to the labels, and by a share ``weight`` to what another network said."""
    loss = jnp.mean(cross_entropy(logits, batch["label"], recipe.label_smoothing))
    if said is None or (isinstance(weight, float) and weight == 0):
        return loss
    told = jax.nn.softmax(jax.lax.stop_gradient(said))
    return (1 - weight) * loss + weight * jnp.mean(optax.softmax_cross_entropy(logits, told))


def _ascended(params: Params, slopes: Params, length: float) -> Params:
    """Where a step of this length leads along a gradient (Foret et al. 2020, arXiv 2010.01412)."""
    if not length:
        return params
    factor = length / jnp.maximum(optax.tree.norm(slopes), 1e-12)
    return jax.tree.map(lambda w, slope: w + (factor * slope).astype(w.dtype), params, slopes)


def _accuracy(logits: Array, batch: Batch) -> Array:
    correct = jnp.argmax(logits, axis=-1) == batch["label"]
    return jnp.mean(correct.astype(jnp.float32))
