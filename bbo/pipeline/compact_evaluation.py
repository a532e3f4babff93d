"""Pruned networks measured: with zeros in place, or at the size that is left."""

from collections.abc import Callable

import jax

from bbo import compaction
from bbo.compaction.channels import Channels, Cut
from bbo.models.create import kept_channels
from bbo.pipeline.epoch_log import tell
from bbo.pipeline.measurements import create_measurements
from bbo.pipeline.run import Run, accuracy_on
from bbo.training.devices import replicate
from bbo.training.preemption import Poll
from bbo.types import PyTree

COMPILING = 5e9
"""What compiling the program of one more convolution is taken for on a CPU, in multiply-adds."""
MULTIPLE = 8
"""Of channels that are left: at other widths convolutions may take longer on CPUs than whole."""


def create_measure(
    run: Run, found: Channels, dead: Callable[[PyTree], Cut], poll: Poll
) -> Callable[[PyTree], dict[str, float]]:
    """What measures variables on the validation and the test images, see ``run.accuracy_on``.

    By ``--evaluate=auto`` a network is measured without its dead channels where that saves more
    multiply-adds than compiling costs. This goes by counts and not by clocks: a run that goes on
    after an interruption measures its points in the same way, to the last bit.

    Args:
      run: the run.
      found: the channels of its network.
      dead: from variables to their dead channels, see ``compaction.dead_channels``.
      poll: asked before each batch.
    """
    programs: dict[frozenset, Callable] = {}

    def at_its_size(variables: PyTree) -> tuple[Run, PyTree]:
        cut = compaction.rounded(found, dead(variables), MULTIPLE)
        if not cut or _saved(run, compaction.shares_left(variables, cut, run.macs)["macs"]) <= 0:
            return run, variables
        small = compaction.smaller(variables, cut)
        kept = kept_channels(small["params"])
        key = frozenset(kept.items())
        if not programs:
            tell("pruned networks are measured at the size that is left")
        if key not in programs:
            programs[key] = create_measurements(run.config, run.mesh, kept=kept)["evaluate"]
        here = run._replace(programs=run.programs._replace(evaluate=programs[key]))
        return here, replicate(small, run.mesh)

    def measure(variables: PyTree) -> dict[str, float]:
        # As if all were gone: where not even that pays, channels need not be followed.
        here, held = at_its_size(variables) if _saved(run, 0.0) > 0 else (run, variables)
        on_validation = accuracy_on(here, "validation", held, poll)
        return on_validation | accuracy_on(here, "test", held, poll)

    return measure


def _saved(run: Run, left: float) -> float:
    """Multiply-adds that are saved if a share of them is left, less what compiling costs."""
    evaluate = run.config.pruning.evaluate
    if evaluate == "masked" or (evaluate == "auto" and jax.default_backend() != "cpu"):
        return 0.0
    images = sum(len(rows) for split, rows in run.rows.items() if split != "train")
    cost = COMPILING * len(run.macs) if evaluate == "auto" else 0.0
    return (1 - left) * sum(run.macs.values()) * images - cost
