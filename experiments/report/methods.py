"""The names of the methods of a comparison: by the settings that tell one from another."""

import itertools
from collections.abc import Sequence
from typing import Any

from bbo.pipeline.curve_file import exact_text, value_text
from bbo.settings.config import ExperimentConfig
from bbo.settings.method import POINTS

LEADING = ("noise", "dataset", "model")
"""Settings that are named by their value alone, and before the others."""


def problem_of(settings: dict[str, Any]) -> tuple[str, str, float]:
    """Dataset, network and width."""
    return settings["dataset"], settings["model"], settings["width"]


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
                text_of({name: settings[name] for name in (*fixed, *chosen)}, among)
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


def text_of(settings: dict[str, Any], among: Sequence[dict[str, Any]] = ()) -> str:
    """Settings in a few words, but for those without effect (None).

    Args:
      settings: by name.
      among: others; a number that is written like another of theirs has all of its digits.

    >>> text_of({"noise": "dropout", "rate": 0.1, "milestones": [0.25, 0.5]})
    'dropout rate=0.1 milestones=0.25,0.5'
    >>> text_of({"rate": 3 * 0.1}), text_of({"rate": 3 * 0.1}, [{"rate": 0.3}])
    ('rate=0.3', 'rate=0.30000000000000004')
    """
    texts = {}
    for name, value in settings.items():
        text = value_text(value)
        alike = [one[name] for one in among if value_text(one[name]) == text]
        texts[name] = text if all(other == value for other in alike) else exact_text(value)
    return " ".join(
        texts[name] if name in LEADING else f"{name}={texts[name]}"
        for name, value in settings.items()
        if value is not None
    )
