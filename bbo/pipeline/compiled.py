"""The compiled programs of a run; each is traced once and serves every epoch and pruning point."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bbo.noise.configured import create_regulariser
from bbo.noise.regulariser import Regulariser, none
from bbo.noise.schedule import strength_schedule
from bbo.pipeline.configured import Images, batch_of, compiler_options, model_of
from bbo.pipeline.measurements import create_measurements
from bbo.pipeline.prunable import pruned_at, removed_at
from bbo.settings.config import ExperimentConfig
from bbo.training import devices
from bbo.training.devices import AXIS, parallelise
from bbo.training.scanning import in_one_call
from bbo.training.step import Clean, Recipe, TrainState, batch_axes, train_step
from bbo.types import Array, Params, PyTree, UsageError


class Programs(NamedTuple):
    """All that is compiled; ``choice`` holds ``row``, ``index`` and ``valid`` [b] of a batch."""

    model: nn.Module
    """The network, as it is evaluated."""
    train: Callable[[TrainState, Images, PyTree], tuple[TrainState, dict[str, Array]]]
    """With ``steps_per_call`` above 1, of batches and to metrics with a first axis more."""
    removing: tuple[Callable[[TrainState, Images, PyTree], tuple[TrainState, dict]], ...]
    """The steps of each of ``removed_shares``; ``train`` is then that of the whole network."""
    evaluate: Callable[[PyTree, Images, PyTree], dict[str, Array]]
    moments: Callable[[PyTree, Images, PyTree], PyTree]
    """BatchNorm statistics of one augmented batch, without noise."""
    mend: Callable[[Callable[..., PyTree], PyTree, PyTree, Images, PyTree], PyTree]
    """``(function, dense, pruned, images, choice) -> variables``: see ``by_name.Context``."""
    gradients: Callable[[PyTree, Images, PyTree], Params]
    """Of the loss on one batch, in evaluation mode."""


def create_programs(
    config: ExperimentConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    steps: int,
    kept: Mapping[str, int] | None = None,
) -> Programs:
    """Compiles nothing yet: each program is compiled at its first call.

    Args:
      config: all settings.
      optimizer: of the parameters.
      mesh: the devices.
      steps: of the whole training.
      kept: the channels of a network that has lost some, see ``create.kept_channels``.

    Raises:
      UsageError: settings that this backend cannot combine.
    """
    if config.train.parallel == "pmap" and compiler_options(config, mesh):
        raise UsageError("bfloat16 on CPU needs compiler options that pmap lacks; use parallel=jit")
    if config.train.parallel == "pmap" and config.train.steps_per_call > 1:
        raise UsageError("steps_per_call above 1 needs parallel=jit")
    if config.train.parallel == "pmap" and mesh.is_multi_process:
        raise UsageError("pmap works within one process; use parallel=jit over several")
    train, *removing = create_train(config, optimizer, mesh, steps=steps, kept=kept)
    measurements = create_measurements(config, mesh, kept=kept)
    model = model_of(config, kept=kept)
    return Programs(model=model, train=train, removing=tuple(removing), **measurements)


def create_train(
    config: ExperimentConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    steps: int,
    kept: Mapping[str, int] | None = None,
) -> list[Callable[[TrainState, Images, PyTree], tuple[TrainState, dict[str, Array]]]]:
    """The training step, compiled at its first call; it alone depends on the noise.

    Behind it those of each of ``removed_shares``.
    """
    alone = create_regulariser(config.noise).per_example or config.train.norm_scope == "device"
    in_shards = config.train.parallel == "jit" and mesh.size > 1 and alone
    mapped = in_shards or config.train.parallel == "pmap"

    def compiled(step: Callable) -> Callable:
        if in_shards:
            # Of weights that differ by example XLA would gather all images, if it was left alone.
            step = devices.in_shards(step, mesh)
        return parallelise(
            in_one_call(step, config.train.steps_per_call),
            parallel=config.train.parallel,
            mesh=mesh,
            options=compiler_options(config, mesh),
        )

    how = {"steps": steps, "mapped": mapped, "kept": kept}
    removed = (0.0, *config.noise.removed_shares) if config.noise.removes else (None,)
    return [compiled(_train_step(config, optimizer, removed=share, **how)) for share in removed]


def create_members_step(
    config: ExperimentConfig, optimizer: optax.GradientTransformation, mesh: Mesh, *, steps: int
) -> Callable[[TrainState, Images, PyTree, Array], tuple[TrainState, dict]]:
    """The training step of several runs at once, compiled as one program.

    It takes and gives what ``Programs.train`` does, each with an axis more, over the members: the
    first, or of batches and metrics of several steps the second. But the images are the same for
    all, and the rate of the noise of each is an argument.
    """

    def step(state: TrainState, images: Images, choice: PyTree, rate: Array) -> Any:
        return _train_step(config, optimizer, steps=steps, rate=rate)(state, images, choice)

    together = jax.vmap(step, in_axes=(0, Images(None, None, 0), 0, 0))  # pyright: ignore
    return jax.jit(
        in_one_call(together, config.train.steps_per_call),
        donate_argnums=0,
        out_shardings=NamedSharding(mesh, PartitionSpec()),
        compiler_options=compiler_options(config, mesh),
    )


def _train_step(
    config: ExperimentConfig,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    rate: Array | None = None,
    mapped: bool = False,
    kept: Mapping[str, int] | None = None,
    removed: float | None = None,
) -> Callable:
    """One step.

    ``mapped``: as a device takes it that sees its own rows of the batch alone. ``removed``: a step
    without this share of the filters, 0 for the whole network; None: see ``removed_shares``.
    """
    noise, strength = config.noise, strength_schedule(config.noise, steps)
    own_norms = mapped and config.train.norm_scope == "device"
    axes = batch_axes(create_regulariser(noise), mapped=mapped and not own_norms)
    build = functools.partial(model_of, config, axis_name=axes)
    model = model_of(config, kept=kept)
    prune = pruned_at(config, model)

    def regulariser_at(step: Array) -> Regulariser:
        if removed == 0:
            return none()
        if removed:
            return Regulariser(network=removed_at(config, model, removed, build))
        factor = strength(step) if strength else 1.0
        return create_regulariser(noise, rate, strength=factor, prune=prune)

    recipe = functools.partial(
        Recipe,
        model=build(kept=kept),
        optimizer=optimizer,
        label_smoothing=config.optimizer.label_smoothing,
        clean=_clean(config, removed),
        average_decay=config.optimizer.average_decay,
        mapped_axis=AXIS if mapped else None,
        own_norms=own_norms,
    )

    def step(state: TrainState, images: Images, choice: PyTree) -> Any:
        augment_rng, noise_rng = jax.random.split(images.rng)
        batch = batch_of(config, images, choice, jax.random.fold_in(augment_rng, state.step))
        return train_step(state, batch, noise_rng, recipe(regulariser=regulariser_at(state.step)))

    return step


def _clean(config: ExperimentConfig, removed: float | None) -> Clean:
    """What the network without noise gets of a step; see ``_train_step`` for ``removed``."""
    noise = config.noise
    if removed == 0 or noise.noise == "none":
        return Clean()
    each_step = noise.clean_in == "each_step"
    # With programs of their own, whole steps without noise are not drawn within this one.
    share = noise.clean_share if removed is None or each_step else 0.0
    return Clean(share, each_step=each_step, distill=noise.distill, ascent=noise.ascent)
