"""The last stage of a run: the trained network, pruned and evaluated at every intensity."""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bbo import compaction, pruning, trees
from bbo.compaction.channels import Channels
from bbo.files import read_lines, write_lines
from bbo.pipeline.points import CurveTools, pruning_curve
from bbo.pipeline.prunable import prunable
from bbo.pipeline.run import Run, Trained, accuracy_on, choices
from bbo.pruning.groups import groups_of, norms_of, tie_scores
from bbo.pruning.recovery.batch_norm import reestimate_batch_norm
from bbo.training.bar import progress_bar
from bbo.training.devices import agreed, is_first_process, replicate, shard_batch
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


def _recovery_batches(run: Run) -> list[PyTree]:
    """Training images for recoveries and scores."""
    chosen = _recovery_rows(run, run.config.pruning.recovery_images)
    batches = choices(chosen, run.config.train.batch_size)
    return [shard_batch(choice, run.mesh) for choice in batches]


def _curve_scores(
    run: Run, variables: PyTree, batches: list[PyTree], poll: Poll
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
        for batch in polled(batches, poll):
            gradients = run.programs.gradients(variables, run.images["train"], batch)
            part = score(params, gradients, rng)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return jax.tree.map(lambda x: x / len(batches), total)

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
    rows = read_lines(path) if is_first_process() else []
    known = agreed(len(rows))
    points = len(config.granularity) * len(config.sparsities) * len(config.recovery)
    tools = curve_tools(run, network.variables, poll)
    about = {"method": run.config.noise.noise, "state": run.config.train.select}
    with _appending(path, rows) as keep:
        found = pruning_curve(network.variables, config, tools, skip=known)
        bar = progress_bar(
            found,
            total=points,
            initial=known,
            desc="pruning",
            unit="point",
            disable=not is_first_process(),
        )
        started = time.monotonic()
        for row in bar:
            now = time.monotonic()
            rows.append(about | row | {"seconds": now - started})
            keep(rows[-1])
            started = now
    return rows


def _recoveries(
    run: Run, dense: PyTree, batches: list[PyTree], poll: Poll
) -> dict[str, Callable[[PyTree], PyTree]]:
    """Pruned variables to mended ones, by the name of the recovery; from training images alone.

    Args:
      run: made ready.
      dense: the variables before pruning.
      batches: of training images.
      poll: asked before each batch.
    """
    augmented = run.images["train"]._replace(rng=replicate(run.rngs["recovery"], run.mesh))
    limit = min(run.config.pruning.recovery_images, LAYERWISE_IMAGES)
    rows = _recovery_rows(run, limit)
    (large_batch,) = (shard_batch(c, run.mesh) for c in choices(rows, len(rows)))

    def batch_norm(variables: PyTree) -> PyTree:
        return reestimate_batch_norm(
            lambda variables, batch: run.programs.moments(variables, augmented, batch),
            variables,
            polled(batches, poll),
        )

    def bias(variables: PyTree) -> PyTree:
        poll()
        return batch_norm(run.programs.correct(dense, variables, augmented, large_batch))

    def least_squares(variables: PyTree) -> PyTree:
        poll()
        return batch_norm(run.programs.refit(dense, variables, augmented, large_batch))

    return {
        "none": lambda variables: variables,
        "batch_norm": batch_norm,
        "bias": bias,
        "least_squares": least_squares,
    }


def curve_tools(run: Run, variables: PyTree, poll: Poll) -> CurveTools:
    """What pruning, mending and measuring the network of a run takes."""
    batches, config = _recovery_batches(run), run.config.pruning
    scores = _curve_scores(run, variables, batches, poll)
    found = find_channels(run, variables)
    groups = groups_of(found.groups, "params")

    def tied(granularity: str) -> dict[str, Array]:
        return tie_scores(scores(granularity), groups, criterion=config.criterion)

    def measure(variables: PyTree) -> dict[str, float]:
        on_validation = accuracy_on(run, "validation", variables, poll)
        return on_validation | accuracy_on(run, "test", variables, poll)

    by_group = config.scope == "group"
    chosen = tied if by_group else scores
    if run.config.iterations.prune_iterations > 1:
        chosen = _pruned_first(variables["params"], chosen)
    return CurveTools(
        scores=chosen,
        recoveries=_recoveries(run, variables, batches, poll),
        evaluate=measure,
        macs=run.macs,
        norms=norms_of(groups) if by_group else pruning.norm_of,
        compact=_compact_share(run, found),
    )


def _pruned_first(
    params: Params, scores: Callable[[str], dict[str, Array]]
) -> Callable[[str], dict[str, Array]]:
    """The scores, lowest for what is zero: what an earlier pruning removed is removed again."""
    leaves = trees.flatten(params)

    def lowered(name: str, values: Array) -> Array:
        within = tuple(range(leaves[name].ndim - values.ndim))
        return jnp.where(jnp.all(leaves[name] == 0, axis=within), -jnp.inf, values)

    return lambda granularity: {
        name: lowered(name, values) for name, values in scores(granularity).items()
    }


def find_channels(run: Run, variables: PyTree) -> Channels:
    """The channels of a run's network."""
    image = jax.ShapeDtypeStruct((1, *run.images["train"].image.shape[1:]), jnp.float32)
    return compaction.find_channels(run.programs.model.apply, variables, image)


def _compact_share(run: Run, found: Channels) -> Callable[[PyTree], dict[str, float]]:
    """``variables -> {"macs_compact": share}``: the multiply-adds left without dead channels."""

    def share(variables: PyTree) -> dict[str, float]:
        cut = compaction.dead_channels(found, variables)
        small = jax.eval_shape(lambda: compaction.smaller(variables, cut))
        left, whole = (trees.flatten(tree["params"]) for tree in (small, variables))
        macs = sum(count * left[name].size / whole[name].size for name, count in run.macs.items())
        return {"macs_compact": macs / sum(run.macs.values())}

    return share


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
            lines.write(json.dumps(row) + "\n")
            lines.flush()

        yield keep
