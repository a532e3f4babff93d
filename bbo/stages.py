"""The stages of a run: set up, train, prune and evaluate."""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bbo import (
    checkpoint,
    cost,
    data,
    evaluate,
    metrics,
    optim,
    pruning,
    recovery,
    sharding,
    train,
)
from bbo.catalog import DATASETS
from bbo.config import ExperimentConfig
from bbo.programs import Images, Programs, create_programs
from bbo.progress import progress_bar
from bbo.selection import check_selections, prunable
from bbo.types import Array, Params, PyTree, Rng, RunError, UsageError

EVALUATION_BATCH = 500
"""Images at a time in evaluation, at most; rounded up to a multiple of the number of devices."""


class Run(NamedTuple):
    """A run made ready: everything on the devices, nothing written yet."""

    config: ExperimentConfig
    mesh: Mesh
    splits: dict[str, Images]
    """``train``, ``test`` and, unless it is empty, ``validation``."""
    programs: Programs
    state: train.TrainState
    """Before the first step."""
    rngs: dict[str, Rng]
    macs: dict[str, int]


class Network(NamedTuple):
    """A trained network, worth pruning."""

    variables: PyTree
    """``params`` and ``batch_stats``."""
    epoch: Array
    accuracy: Array
    """By which it was selected, a fraction; -1 if it was not."""


def set_up(config: ExperimentConfig, *, devices: list[Any] | None = None) -> Run:
    """Loads the data, makes the network, and checks what can be checked before work begins.

    Args:
      config: all settings.
      devices: to run on; None takes all.

    Raises:
      UsageError: no data, or settings that do not fit the data, the network or the devices.
    """
    info, mesh = DATASETS[config.data.dataset], sharding.data_mesh(devices)
    dataset = data.load_dataset(config.data, seed=config.train.seed)
    num_train, batch_size = len(dataset.train.label), config.train.batch_size
    if batch_size > num_train:
        raise UsageError(
            f"batch_size is {batch_size}, but there are {num_train} training images; "
            f"set batch_size to {num_train} or less"
        )
    sharding.check_divides(batch_size, mesh.size)
    optimizer = optim.create_optimizer(
        config.optimizer, epochs=config.train.epochs, steps_per_epoch=num_train // batch_size
    )
    programs = create_programs(config, optimizer, mesh)
    streams = ("initial", "order", "train", "recovery", "scores", "recovery_order")
    root = jax.random.key(config.train.seed)
    rngs = {name: jax.random.fold_in(root, i) for i, name in enumerate(streams)}
    fresh = functools.partial(
        train.create_state, programs.model, optimizer, rngs["initial"], info.image_shape
    )
    check_selections(config, jax.eval_shape(fresh).params)  # shapes suffice, and cost nothing
    state = fresh()
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    images = {
        name: Images(split.image, split.label, rngs["train"])
        for name, split in splits.items()
        if len(split.label)
    }
    return Run(
        config=config,
        mesh=mesh,
        splits=sharding.replicate(images, mesh),
        programs=programs,
        state=sharding.replicate(state, mesh),
        rngs=rngs,
        macs=cost.layer_macs(programs.model, variables_of(state), info.image_shape),
    )


def variables_of(state: train.TrainState) -> PyTree:
    """What the network is applied to."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def _choices(rows: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of rows in order; the last is padded with row 0, marked as not valid."""
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        padding = batch_size - len(part)
        yield {
            "row": np.pad(part, (0, padding)).astype(np.int32),
            "index": np.arange(batch_size, dtype=np.int32),
            "valid": np.arange(batch_size) < len(part),
        }


def accuracy_on(run: Run, split: str, variables: PyTree) -> dict[str, float]:
    """``loss``, ``top1`` and ``top5`` on a split, by ``<split>_<name>``; {} if it is empty."""
    if split not in run.splits:
        return {}
    images = run.splits[split]
    num_images = len(images.label)
    devices = run.mesh.size
    batch_size = -(-min(EVALUATION_BATCH, num_images) // devices) * devices
    means = evaluate.evaluate(
        lambda choice: run.programs.evaluate(variables, images, choice),
        (
            sharding.shard_batch(choice, run.mesh)
            for choice in _choices(np.arange(num_images), batch_size)
        ),
    )
    return {f"{split}_{name}": value for name, value in means.items()}


def train_network(run: Run, workdir: pathlib.Path) -> Network:
    """Trains from the newest checkpoint, or from the beginning; gives the selected network.

    Raises:
      RunError: the loss is no longer a number.
    """
    config = run.config
    unselected = _network(run.state, epoch=0, accuracy=-1.0)
    manager = checkpoint.open_checkpoints(workdir, every=config.train.checkpoint_every)
    done, (state, best) = checkpoint.restore_newest(
        manager, (run.state, sharding.replicate(unselected, run.mesh))
    )
    state = jax.tree.map(jnp.copy, state)  # the first step takes its memory, not that of the run
    watched = {"best_test": "test"}.get(config.train.select, "validation")
    steps = len(run.splits["train"].label) // config.train.batch_size
    with (
        manager,
        metrics.metrics_writer(workdir, resumed_epoch=done) as write,
        progress_bar(total=config.train.epochs * steps, initial=done * steps, unit="step") as bar,
    ):

        def batches(epoch: int) -> Iterator[PyTree]:
            bar.set_description(f"epoch {epoch}/{config.train.epochs}", refresh=False)
            for choice in training_batches(run, epoch):
                yield choice
                bar.update()

        started = time.monotonic()

        def after_epoch(epoch: int, state: train.TrainState, means: dict[str, float]) -> None:
            nonlocal best, started
            if not np.isfinite(means["loss"]):
                raise RunError(
                    f"training diverged: the loss of epoch {epoch} is {means['loss']}; "
                    "lower learning_rate or rate, or raise q"
                )
            seen = accuracy_on(run, watched, variables_of(state))
            numbers = {f"train_{name}": value for name, value in means.items()} | seen
            now = time.monotonic()
            write(epoch, numbers | {"seconds": round(now - started, 3)})
            started = now
            bar.set_postfix({"loss": f"{means['loss']:.3f}", **_shown(seen)}, refresh=False)
            best = _select(config.train.select, best, state, epoch, seen.get(f"{watched}_top1"))
            last = epoch == config.train.epochs
            checkpoint.save(manager, epoch, (state, best), last=last)

        train.fit(
            state,
            lambda state, batch: run.programs.train(state, run.splits["train"], batch),
            batches,
            epochs=range(done + 1, config.train.epochs + 1),
            after_epoch=after_epoch,
        )
        manager.wait_until_finished()
    return best


def _shown(seen: dict[str, float]) -> dict[str, str]:
    return {name: f"{100 * value:.1f} %" for name, value in seen.items() if name.endswith("top1")}


def _select(
    rule: str, best: Network, state: train.TrainState, epoch: int, accuracy: float | None
) -> Network:
    """The better of the best network so far and this one; the later of two equals."""
    if rule == "last" or accuracy is None:
        return _network(state, epoch=epoch, accuracy=-1.0)
    is_worse = np.float32(accuracy) < np.float32(best.accuracy)
    return best if is_worse else _network(state, epoch=epoch, accuracy=accuracy)


def _network(state: train.TrainState, *, epoch: int, accuracy: float) -> Network:
    """A copy, because the next step is allowed to overwrite the state."""
    kept = jax.tree.map(jnp.copy, variables_of(state))
    return Network(kept, jnp.asarray(epoch, jnp.int32), jnp.asarray(accuracy, jnp.float32))


def training_batches(run: Run, epoch: int) -> Iterator[PyTree]:
    """The batches of an epoch, in its own random order, spread over the devices."""
    batch_size = run.config.train.batch_size
    rng = jax.random.fold_in(run.rngs["order"], epoch)
    order = data.epoch_indices(rng, len(run.splits["train"].label), batch_size)
    for choice in _choices(np.asarray(order).ravel(), batch_size):
        yield sharding.shard_batch(choice, run.mesh)


def _recovery_batches(run: Run) -> list[PyTree]:
    """The same training images for every recovery and score, in full batches."""
    batch_size, limit = run.config.train.batch_size, run.config.pruning.recovery_images
    num_images = len(run.splits["train"].label)
    order = np.asarray(jax.random.permutation(run.rngs["recovery_order"], num_images))
    count = max(1, min(limit, num_images) // batch_size) * batch_size
    return [
        sharding.shard_batch(choice, run.mesh) for choice in _choices(order[:count], batch_size)
    ]


def _curve_scores(run: Run, variables: PyTree, batches: list[PyTree]) -> Callable:
    """``granularity -> scores``; those of the criterion taylor are means over the batches."""
    config = run.config.pruning

    def scores(granularity: str) -> dict[str, Array]:
        @jax.jit
        def score(params: Params, gradients: Params | None, rng: Rng) -> dict[str, Array]:
            return pruning.scores(
                params,
                criterion=config.criterion,
                granularity=granularity,
                on=prunable(run.config, granularity),
                gradients=gradients,
                rng=rng,
            )

        params, rng = variables["params"], run.rngs["scores"]
        if config.criterion != "taylor":
            return score(params, None, rng)
        total = None
        for batch in batches:
            gradients = run.programs.gradients(variables, run.splits["train"], batch)
            part = score(params, gradients, rng)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return jax.tree.map(lambda x: x / len(batches), total)

    return scores


def prune_network(run: Run, network: Network) -> list[dict[str, Any]]:
    """The rows of the pruning curve: see ``evaluate.pruning_curve``."""
    config, variables = run.config.pruning, network.variables
    batches = _recovery_batches(run)
    augmented = run.splits["train"]._replace(rng=sharding.replicate(run.rngs["recovery"], run.mesh))

    def mend(variables: PyTree) -> PyTree:
        return recovery.reestimate_batch_norm(
            lambda variables, batch: run.programs.moments(variables, augmented, batch),
            variables,
            batches,
        )

    recoveries: dict[str, Callable[[PyTree], PyTree]] = {"none": lambda v: v, "batch_norm": mend}
    tools = evaluate.CurveTools(
        scores=_curve_scores(run, variables, batches),
        recoveries=recoveries,
        evaluate=lambda v: accuracy_on(run, "validation", v) | accuracy_on(run, "test", v),
        macs=run.macs,
    )
    points = len(config.granularity) * len(config.sparsities) * len(config.recovery)
    rows = evaluate.pruning_curve(variables, config, tools)
    about = {"method": run.config.noise.noise, "state": run.config.train.select}
    bar = progress_bar(rows, total=points, desc="pruning", unit="point")
    return [about | row for row in bar]
