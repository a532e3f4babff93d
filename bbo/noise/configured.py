"""The regulariser that a configuration names."""

from collections.abc import Callable

from bbo.noise.bridgeout import batch_bridgeout, bridgeout, group_bridgeout, sparseout
from bbo.noise.dropout import dropconnect, dropout, shakeout, targeted_dropout
from bbo.noise.regulariser import Regulariser, none, spatial_kernels
from bbo.settings.sections import NoiseConfig
from bbo.types import Array


def create_regulariser(config: NoiseConfig, rate: Array | None = None) -> Regulariser:
    """The regulariser of a configuration; with another ``rate``, which may be traced, if given."""
    on = config.noise_on or spatial_kernels
    rate = config.rate if rate is None else rate
    q = config.q
    target = {"target_fraction": config.target_fraction, "target_unit": config.target_unit}
    maps = {"target_fraction": config.activation_target_fraction}
    makers: dict[str, Callable[[], Regulariser]] = {
        "none": none,
        "batch_bridgeout": lambda: batch_bridgeout(rate=rate, q=q, on=on, **target),
        "bridgeout": lambda: bridgeout(rate=rate, q=q, on=on),
        "group_bridgeout": lambda: group_bridgeout(rate=rate, q=q, on=on),
        "dropconnect": lambda: dropconnect(rate=rate, on=on),
        "dropout": lambda: dropout(rate=rate, **maps),
        "sparseout": lambda: sparseout(rate=rate, q=q, **maps),
        "targeted_dropout": lambda: targeted_dropout(rate=rate, on=on, **target),
        "shakeout": lambda: shakeout(rate=rate, c=config.shakeout_c, on=on),
    }
    return makers[config.noise]()
