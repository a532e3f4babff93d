"""The regulariser that a configuration names."""

from collections.abc import Callable

from bbo.noise.bridgeout import batch_bridgeout, bridgeout, group_bridgeout, sparseout
from bbo.noise.dropout import dropconnect, dropout, shakeout, targeted_dropout
from bbo.noise.regulariser import Regulariser, none, spatial_kernels
from bbo.settings.catalog import REGULARISERS
from bbo.settings.sections import NoiseConfig
from bbo.types import Array

MAKERS: dict[str, Callable[..., Regulariser]] = {
    "none": none,
    "batch_bridgeout": batch_bridgeout,
    "bridgeout": bridgeout,
    "group_bridgeout": group_bridgeout,
    "dropconnect": dropconnect,
    "dropout": dropout,
    "sparseout": sparseout,
    "targeted_dropout": targeted_dropout,
    "shakeout": shakeout,
}
"""What makes each of ``catalog.REGULARISERS`` from its settings."""
ARGUMENTS = {
    "noise_on": "on",
    "activation_target_fraction": "target_fraction",
    "shakeout_c": "c",
}
"""Settings that the makers call otherwise."""


def create_regulariser(config: NoiseConfig, rate: Array | None = None) -> Regulariser:
    """The regulariser of a configuration; with another ``rate``, which may be traced, if given."""
    names = REGULARISERS[config.noise]
    given = {ARGUMENTS.get(name, name): getattr(config, name) for name in names}
    if rate is not None and "rate" in given:
        given["rate"] = rate
    if not given.get("on", True):
        given["on"] = spatial_kernels
    return MAKERS[config.noise](**given)
