"""The regulariser that a configuration names."""

from collections.abc import Callable

from bbo.noise.bridgeout import (
    batch_bridgeout,
    bridgeout,
    group_bridgeout,
    scale_free_bridgeout,
    sparseout,
)
from bbo.noise.dropout import (
    Prune,
    dropconnect,
    dropout,
    nested_dropping,
    shakeout,
    targeted_dropout,
)
from bbo.noise.penalty import lq_penalty
from bbo.noise.regulariser import Regulariser, none
from bbo.noise.selection import spatial_kernels
from bbo.settings.catalog import REGULARISERS
from bbo.settings.noise_section import NoiseConfig
from bbo.types import Array

MAKERS: dict[str, Callable[..., Regulariser]] = {
    "none": none,
    "batch_bridgeout": batch_bridgeout,
    "scale_free_bridgeout": scale_free_bridgeout,
    "bridgeout": bridgeout,
    "group_bridgeout": group_bridgeout,
    "dropconnect": dropconnect,
    "dropout": dropout,
    "sparseout": sparseout,
    "targeted_dropout": targeted_dropout,
    "nested_dropping": nested_dropping,
    "shakeout": shakeout,
    "lq_penalty": lq_penalty,
}
"""What makes each of ``catalog.REGULARISERS`` from its settings."""
ARGUMENTS = {
    "noise_on": "on",
    "activation_target_fraction": "target_fraction",
    "shakeout_c": "c",
    "removed_shares": "shares",
}
"""Settings that the makers call otherwise."""


def create_regulariser(
    config: NoiseConfig,
    rate: Array | None = None,
    *,
    strength: float | Array = 1.0,
    prune: Prune | None = None,
) -> Regulariser:
    """The regulariser of a configuration.

    Args:
      config: its settings.
      rate: in place of theirs; may be traced.
      strength: factor in [0, 1] on the rate, on the penalty, or on the largest share that is
        dropped; may be traced. See ``schedule.strength_schedule``. No effect on
        ``removed_shares``: it is the share of the steps that have noise then, see
        ``schedule.draw_removed``.
      prune: for nested_dropping, ``(params, share) -> params`` as it is pruned.
    """
    names = REGULARISERS[config.noise]
    given = {ARGUMENTS.get(name, name): getattr(config, name) for name in names}
    if rate is not None and "rate" in given:
        given["rate"] = rate
    scaled = next((name for name in ("rate", "penalty", "target_fraction") if name in given), None)
    if scaled:
        given[scaled] *= strength
    if not given.get("on", True):
        given["on"] = spatial_kernels
    if config.noise == "nested_dropping":
        given["prune"] = prune
    return MAKERS[config.noise](**given)
