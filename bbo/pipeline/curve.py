"""The last stage of a run: the trained network, pruned and evaluated at every intensity."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbo import compaction, pruning, trees
from bbo.compaction.channels import Channels, Cut
from bbo.files import read_lines, sealed, write_lines
from bbo.pipeline.compact_evaluation import create_measure
from bbo.pipeline.points import CurveTools, Point, points_of, pruning_curve, settings_at
from bbo.pipeline.prunable import prunable, pruner_of
from bbo.pipeline.run import Run, Trained, choices
from bbo.pruning.recovery.by_name import FUNCTIONS as RECOVER
from bbo.pruning.recovery.by_name import Context
from bbo.pruning.units import Units, channel_scores, describe, tie_scores
from bbo.settings.pruning_sections import PruningConfig
from bbo.training.bar import progress_bar
from bbo.training.devices import agreed, is_first_process, replicate, shard_batch
from bbo.training.finite import require_finite
from bbo.training.preemption import Poll, polled
from bbo.types import Array, Params, PyTree, Rng

LAYERWISE_IMAGES = 1024
"""Whose activations a recovery layer by layer holds at once, at most (``recovery_images`` too)."""


def _recovery_rows(run: Run, limit: int) -> np.ndarray:
    """Training images in random order, full batches of them: the same for all that need some."""
    batch_size, rows = run.config.train.batch_size, run.rows["train"]
    order = np.asarray(jax.random.permutation(run.rngs["recovery_order"], len(rows)))
    count = max(1, min(limit, len(rows)) // batch_size) * batch_size
    return rows[order[:count]]


Batches = Callable[[], list[PyTree]]
"""Drawn when they are first asked for: most curves need none."""


def _recovery_batches(run: Run) -> Batches:
    """Training images for recoveries and scores."""

    @functools.cache
    def drawn() -> list[PyTree]:
        chosen = _recovery_rows(run, run.config.pruning.recovery_images)
        batches = choices(chosen, run.config.train.batch_size)
        return [shard_batch(choice, run.mesh) for choice in batches]

    return drawn


def _curve_scores(
    run: Run, variables: PyTree, batches: Batches, poll: Poll
) -> Callable[[str], dict[str, Array]]:
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
        for batch in polled(batches(), poll):
            gradients = run.programs.gradients(variables, run.images["train"], batch)
            part = score(params, gradients, rng)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return jax.tree.map(lambda x: x / len(batches()), total)

    return scores


def prune_network(
    run: Run, network: Trained, workdir: pathlib.Path, poll: Poll
) -> list[dict[str, Any]]:
    """The rows of the pruning curve: see ``points.pruning_curve``.

    Each is kept in ``curve.jsonl`` as soon as it is known, so that an interrupted curve goes on,
    and has the ``seconds`` that it took. In a run of many processes only the first is sure to have
    all rows.

    Raises:
      Preempted: from ``poll``, before a batch.
    """
    path, config = workdir / "curve.jsonl", run.config.pruning
    about = {"method": run.config.noise.noise, "state": run.config.train.select}
    points = points_of(config)
    rows = _known(path, about, config) if is_first_process() else {}
    left = [point for point in points if not agreed(point in rows)]
    tools = curve_tools(run, network.variables, poll)
    with _appending(path, list(rows.values())) as keep:
        found = pruning_curve(network.variables, config, tools, points=left)
        bar = progress_bar(
            found,
            total=len(points),
            initial=len(points) - len(left),
            desc="pruning",
            unit="point",
            disable=not is_first_process(),
        )
        started = time.monotonic()
        for point, row in zip(left, bar, strict=True):
            now = time.monotonic()
            rows[point] = about | row | {"seconds": now - started}
            keep(rows[point])
            started = now
    return [rows[point] for point in points if point in rows]


def _known(
    path: pathlib.Path, about: dict[str, Any], config: PruningConfig
) -> dict[Point, dict[str, Any]]:
    """The rows of a file by what they measure; those of anything else do not count."""
    held = read_lines(path)
    return {
        point: row
        for point in points_of(config)
        for row in held
        if (about | settings_at(config, point)).items() <= row.items() and "error" in row
    }


def recovery_context(run: Run, batches: Batches, poll: Poll) -> Context:
    """What the recoveries of a run look at; ``poll`` is asked before each batch of images."""
    augmented = run.images["train"]._replace(rng=replicate(run.rngs["recovery"], run.mesh))

    @functools.cache
    def large_batch() -> PyTree:
        limit = min(run.config.pruning.recovery_images, LAYERWISE_IMAGES)
        rows = _recovery_rows(run, limit)
        (batch,) = (shard_batch(choice, run.mesh) for choice in choices(rows, len(rows)))
        return batch

    def layer_by_layer(mend: Callable[..., PyTree], dense: PyTree, pruned: PyTree) -> PyTree:
        poll()
        return run.programs.mend(mend, dense, pruned, augmented, large_batch())

    return Context(
        batches=lambda: polled(batches(), poll),
        moments=lambda variables, batch: run.programs.moments(variables, augmented, batch),
        layer_by_layer=layer_by_layer,
    )


def curve_tools(run: Run, variables: PyTree, poll: Poll) -> CurveTools:
    """What pruning, mending and measuring the network of a run takes."""
    config, params = run.config.pruning, variables["params"]
    batches = _recovery_batches(run)
    scores = _curve_scores(run, variables, batches, poll)
    found = find_channels(run, variables)
    channels = found.within("params") if config.scope == "group" else None
    context = recovery_context(run, batches, poll)

    def prepare(granularity: str) -> pruning.Pruner:
        scored, units = scores(granularity), None
        if channels is not None:
            units = describe(channels, lambda name, _: name in scored).units
            scored = tie_scores(scored, units, criterion=config.criterion)
        if run.config.iterations.prune_iterations > 1:
            # What an earlier pruning removed is removed again.
            zero = _zero_units(params, scored, units)
            scored = {name: jnp.where(zero[name], -jnp.inf, x) for name, x in scored.items()}
        how: dict[str, Any] = {"granularity": granularity, "channels": channels}
        return pruner_of(run.config, params, scored, **how)

    dead = _remembering_the_last(functools.partial(compaction.dead_channels, found))

    def compact(pruned: PyTree) -> dict[str, float]:
        return {"macs_compact": compaction.shares_left(pruned, dead(pruned), run.macs)["macs"]}

    def mend(recovery: str, pruned: PyTree) -> PyTree:
        # Of a network of NaN the measured numbers may be finite all the same.
        return require_finite(RECOVER[recovery](context, variables, pruned))

    return CurveTools(
        prepare=prepare,
        mend=mend,
        evaluate=create_measure(run, found, dead, poll),
        macs=run.macs,
        compact=compact,
    )


def _remembering_the_last(function: Callable[[PyTree], Cut]) -> Callable[[PyTree], Cut]:
    """The same function, which asked again for the very same object does nothing again."""
    last: list[Any] = [None, None]

    def remembered(variables: PyTree) -> Cut:
        if last[0] is not variables:
            last[:] = variables, function(variables)
        return last[1]

    return remembered


def _zero_units(
    params: Params, scored: dict[str, Array], units: Mapping[str, Units] | None
) -> dict[str, Array]:
    """Where units are zero: bool like their scores; of whole channels, which are given then too."""
    if units is not None:
        return {name: norms == 0 for name, norms in channel_scores(params, units).items()}
    leaves = trees.flatten(params)
    return {
        name: jnp.all(leaves[name] == 0, axis=tuple(range(leaves[name].ndim - values.ndim)))
        for name, values in scored.items()
    }


def find_channels(run: Run, variables: PyTree) -> Channels:
    """The channels of a run's network."""
    image = jax.ShapeDtypeStruct((1, *run.config.data.info.image_shape), jnp.float32)
    return compaction.find_channels(run.programs.model.apply, variables, image)


@contextlib.contextmanager
def _appending(
    path: pathlib.Path, rows: list[dict[str, Any]]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives ``keep(row)``, which adds a line to a file that holds ``rows``, nothing torn."""
    if not is_first_process():
        yield lambda row: None
        return
    write_lines(path, rows)
    with path.open("a", encoding="utf-8") as lines:

        def keep(row: dict[str, Any]) -> None:
            lines.write(sealed(row) + "\n")
            lines.flush()

        yield keep
