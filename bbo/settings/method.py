"""The method of a run: the settings that change its numbers, but for the seed."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from bbo.settings.config import ExperimentConfig, to_json
from bbo.settings.workdir import PLACES

POINTS = ("sparsities", "granularity", "recovery")
"""Settings that say at which points a network is measured, and change no number there."""
NO_PART = ("seed", *PLACES, "parallel", "checkpoint_every", "evaluate", *POINTS)
"""Settings that make no other method: what changes nothing but rounding, the seed, the points."""


def settings_of(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that make the method of a run, by name; None for those without effect in it."""
    used = {"noise": config.noise.noise} | config.noise.effective
    sections = to_json(config)
    sections["noise"] = {name: used.get(name) for name in sections["noise"]}
    if config.pruning.recovery == ("none",) and config.pruning.criterion != "taylor":
        sections["pruning"]["recovery_images"] = None
    iterations = config.iterations
    unused = ("retrain_rate",) if iterations.rewind else ()
    if iterations.prune_iterations == 1:
        unused = tuple(name for name in sections["iterations"] if name != "prune_iterations")
    sections["iterations"] |= dict.fromkeys(unused)
    flat = {name: value for section in sections.values() for name, value in section.items()}
    # -0.0 is 0.0, and makes no other method.
    flat = {
        name: value + 0.0 if isinstance(value, float) else value for name, value in flat.items()
    }
    return {name: value for name, value in flat.items() if name not in NO_PART}


def settings_of_all(runs: Iterable[ExperimentConfig]) -> list[dict[str, Any]]:
    """The settings that make the method of each of several runs.

    A run that was measured as pruned alone belongs to the first method that is otherwise alike,
    however many images that one's recoveries were given.
    """
    found, images = [settings_of(config) for config in runs], {}
    keys = [json.dumps(settings | {"recovery_images": None}) for settings in found]
    for key, settings in zip(keys, found, strict=True):
        if settings["recovery_images"] is not None:
            images.setdefault(key, settings["recovery_images"])
    return [
        settings if settings["recovery_images"] else settings | {"recovery_images": images.get(key)}
        for key, settings in zip(keys, found, strict=True)
    ]


def repeated(runs: Sequence[ExperimentConfig]) -> dict[int, int]:
    """Which runs have the method and seed of an earlier one, and of which: numbers, from 0.

    >>> from bbo.settings.config import override
    >>> none = override(ExperimentConfig(), noise="none")
    >>> repeated([override(none, rate=rate) for rate in (0.1, 0.2)])
    {1: 0}
    """
    first: dict[str, int] = {}
    found = {}
    for index, (run, settings) in enumerate(zip(runs, settings_of_all(runs), strict=True)):
        earlier = first.setdefault(json.dumps([settings, run.train.seed]), index)
        if earlier != index:
            found[index] = earlier
    return found
