"""Methods of a comparison: the settings that tell one from another, and the name of each."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from bbo.pipeline.curve_file import value_text
from bbo.settings.config import ExperimentConfig, to_json
from bbo.settings.workdir import PLACES

LEADING = ("noise", "dataset", "model")
"""Settings that are named by their value alone, and before the others."""
POINTS = ("sparsities", "granularity", "recovery")
"""Settings that say at which points a network is measured, and change no number there."""
NO_PART = ("seed", *PLACES, "parallel", "checkpoint_every", *POINTS)
"""Settings that make no other method: what changes nothing but rounding, the seed, the points."""


def problem_of(settings: dict[str, Any]) -> tuple[str, str, float]:
    """Dataset, network and width."""
    return settings["dataset"], settings["model"], settings["width"]


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


def points_text(config: ExperimentConfig) -> str:
    """Where the network of a run was to be measured.

    >>> from bbo.settings import override
    >>> points_text(override(ExperimentConfig(), sparsities=(0.0, 0.5)))
    'sparsities=0,0.5 granularity=filter,weight recovery=none,batch_norm'
    """
    return text_of({name: getattr(config.pruning, name) for name in POINTS})


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the settings that are not alike in all."""
    names = [*LEADING, *(name for name in settings[0] if name not in LEADING)]
    return [name for name in names if any(one[name] != settings[0][name] for one in settings)]


def label(settings: dict[str, Any], among: Sequence[dict[str, Any]]) -> str:
    """The shortest text that tells settings from the others in ``among``.

    The regulariser is part of it if there are several; alone, it is all of it.

    >>> first = {"noise": "dropout", "dataset": "digits", "model": "small_cnn", "rate": 0.1}
    >>> others = [first | {"rate": 0.2}, first | {"noise": "none"}]
    >>> [label(one, [first, *others]) for one in (first, *others)]
    ['dropout rate=0.1', 'dropout rate=0.2', 'none']
    """
    names = differing(among)
    if not names:
        return settings["noise"]
    fixed = [name for name in names if name == "noise"]
    free = [name for name in names if name != "noise"]
    # What has no effect, None, is not told: settings by which it could be are tried last.
    told = [name for name in free if settings[name] is not None]
    for names in (told, free):
        for size in range(len(names) + 1):
            texts = [
                text_of({name: settings[name] for name in (*fixed, *chosen)})
                for chosen in itertools.combinations(names, size)
                if (fixed or chosen) and _is_alone(settings, among, (*fixed, *chosen))
            ]
            if texts:
                return min(texts, key=len)  # the first of equals
    raise ValueError("the settings are there twice")


def _is_alone(
    settings: dict[str, Any], among: Sequence[dict[str, Any]], names: Sequence[str]
) -> bool:
    alike = [one for one in among if all(one[name] == settings[name] for name in names)]
    return alike == [settings]


def text_of(settings: dict[str, Any]) -> str:
    """Settings in a few words, but for those without effect (None).

    >>> text_of({"noise": "dropout", "rate": 0.1, "milestones": [0.25, 0.5]})
    'dropout rate=0.1 milestones=0.25,0.5'
    """
    return " ".join(
        value_text(value) if name in LEADING else f"{name}={value_text(value)}"
        for name, value in settings.items()
        if value is not None
    )
