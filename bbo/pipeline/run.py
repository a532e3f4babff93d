"""A run made ready, and what all of its stages need of it."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from bbo.compaction.cost import layer_macs
from bbo.data.augmentation import epoch_indices
from bbo.data.datasets import Dataset, load_dataset
from bbo.pipeline.compiled import Programs, create_programs, create_train
from bbo.pipeline.configured import Images
from bbo.pipeline.prunable import check_selections
from bbo.settings.config import ExperimentConfig
from bbo.training import preemption, scanning
from bbo.training.devices import check_divides, data_mesh, replicate, shard_batch
from bbo.training.evaluation import evaluate
from bbo.training.optimizer import create_optimizer
from bbo.training.scanning import stacked
from bbo.training.step import TrainState, create_state
from bbo.types import Array, PyTree, Rng, UsageError

EVALUATION_BATCH = 500
"""Images at a time in evaluation, at most; rounded up to a multiple of the number of devices."""

GENERATORS = {"threefry": "threefry2x32", "rbg": "rbg"}
"""By the names of the setting, those of jax."""


class Run(NamedTuple):
    """A run made ready: everything on the devices, nothing written yet."""

    config: ExperimentConfig
    mesh: Mesh
    images: dict[str, Images]
    """``train``, of which some may be held out, and ``test``."""
    rows: dict[str, np.ndarray]
    """Which of them are ``train``, ``validation`` (unless it is empty) and ``test``."""
    optimizer: optax.GradientTransformation
    programs: Programs
    state: TrainState
    """Before the first step."""
    rngs: dict[str, Rng]
    steps_per_epoch: int
    steps_per_call: int
    """Training steps in one computation."""
    macs: dict[str, int]


class Trained(NamedTuple):
    """A trained network, worth pruning."""

    variables: PyTree
    """``params`` and ``batch_stats``."""
    epoch: Array
    accuracy: Array
    """By which it was selected, a fraction; -1 if it was not."""


def set_up(
    config: ExperimentConfig,
    *,
    devices: list[Any] | None = None,
    like: Run | None = None,
    kept: Mapping[str, int] | None = None,
    dataset: Dataset | None = None,
) -> Run:
    """Loads the data, makes the network, and checks what can be checked before work begins.

    Args:
      config: all settings.
      devices: to run on; None takes all.
      like: a run that differs in seed, noise and training alone, to share images, other programs
        and devices with.
      kept: the channels of a network that has lost some, see ``create.kept_channels``.
      dataset: images of the shape of those that the configuration names, to take in their place.

    Raises:
      UsageError: no data, or settings that do not fit the data, the network or the devices.
    """
    info = config.data.info
    mesh = like.mesh if like else data_mesh(devices)
    dataset = dataset or load_dataset(config.data, seed=config.train.seed)
    rows = {
        "train": np.flatnonzero(~dataset.held_out),
        "validation": np.flatnonzero(dataset.held_out),
        "test": np.arange(len(dataset.test.label)),
    }
    num_train, batch_size = len(rows["train"]), config.train.batch_size
    if batch_size > num_train:
        raise UsageError(
            f"batch_size is {batch_size}, but there are {num_train} training images; "
            f"set batch_size to {num_train} or less"
        )
    check_divides(batch_size, mesh.size)
    steps_per_epoch = num_train // batch_size
    steps = config.train.epochs * steps_per_epoch
    optimizer = create_optimizer(
        config.optimizer,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        holding=config.iterations.prune_iterations > 1,
    )
    if like:
        train, *removing = create_train(config, optimizer, mesh, steps=steps)
        programs = like.programs._replace(train=train, removing=tuple(removing))
    else:
        programs = create_programs(config, optimizer, mesh, steps=steps, kept=kept)
    streams = ("initial", "order", "train", "recovery", "scores", "recovery_order")
    root = jax.random.key(config.train.seed, impl=GENERATORS[config.train.generator])
    rngs = {name: jax.random.fold_in(root, i) for i, name in enumerate(streams)}
    fresh = functools.partial(
        create_state,
        programs.model,
        optimizer,
        rngs["initial"],
        info.image_shape,
        averaged=config.optimizer.average_decay > 0,
    )
    if kept is None:  # else it was checked before the network was made smaller
        check_selections(config, programs.model, jax.eval_shape(fresh).params)
    state = fresh()
    if like:
        rng = replicate(rngs["train"], mesh)
        images = {name: held._replace(rng=rng) for name, held in like.images.items()}
    else:
        splits = {"train": dataset.training, "test": dataset.test}
        pixels = math.prod(info.image_shape)
        held = {
            name: Images(split.image.reshape(-1, pixels), split.label, rngs["train"])
            for name, split in splits.items()
        }
        images = replicate(held, mesh)
    return Run(
        config=config,
        mesh=mesh,
        images=images,
        rows={name: chosen for name, chosen in rows.items() if len(chosen)},
        optimizer=optimizer,
        programs=programs,
        state=replicate(state, mesh),
        rngs=rngs,
        steps_per_epoch=steps_per_epoch,
        steps_per_call=scanning.steps_per_call(config.train.steps_per_call, of=steps_per_epoch),
        macs=layer_macs(programs.model, variables_of(state), info.image_shape),
    )


def variables_of(state: TrainState) -> PyTree:
    """What the network is applied to: the moving averages if there are some."""
    params, stats = state.average or (state.params, state.batch_stats)
    return {"params": params, "batch_stats": stats}


def choices(rows: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of rows in order; the last is padded with image 0, marked as not valid."""
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        padding = batch_size - len(part)
        yield {
            "row": np.pad(part, (0, padding)).astype(np.int32),
            "index": np.arange(batch_size, dtype=np.int32),
            "valid": np.arange(batch_size) < len(part),
        }


def accuracy_on(run: Run, split: str, variables: PyTree, poll: preemption.Poll) -> dict[str, float]:
    """``loss``, ``top1`` and ``top5`` on a split, by ``<split>_<name>``; {} if it is empty.

    Raises:
      Preempted: from ``poll``, before a batch.
    """
    if split not in run.rows:
        return {}
    rows, devices = run.rows[split], run.mesh.size
    images = run.images["test" if split == "test" else "train"]
    batch_size = -(-min(EVALUATION_BATCH, len(rows)) // devices) * devices
    means = evaluate(
        lambda choice: run.programs.evaluate(variables, images, choice),
        (
            shard_batch(choice, run.mesh)
            for choice in preemption.polled(choices(rows, batch_size), poll)
        ),
    )
    return {f"{split}_{name}": value for name, value in means.items()}


def training_batches(run: Run, epoch: int) -> Iterator[PyTree]:
    """The batches of an epoch, in its own random order, as ``Programs.train`` takes them."""
    yield from spread_over_devices(run, training_choices(run, epoch), axis=0)


def spread_over_devices(run: Run, batches: Iterable[PyTree], *, axis: int) -> Iterator[PyTree]:
    """Batches for each call in turn, spread over the devices.

    Args:
      run: the run.
      batches: on the host, of each step.
      axis: of their arrays, over the images.
    """
    if run.config.train.steps_per_call > 1:
        batches, axis = stacked(batches, run.steps_per_call), axis + 1
    for batch in batches:
        yield shard_batch(batch, run.mesh, axis=axis)


def training_choices(run: Run, epoch: int) -> Iterator[dict[str, np.ndarray]]:
    """The batches of an epoch, still on the host."""
    rows, batch_size = run.rows["train"], run.config.train.batch_size
    order = epoch_indices(jax.random.fold_in(run.rngs["order"], epoch), len(rows), batch_size)
    yield from choices(rows[np.asarray(order).ravel()], batch_size)
