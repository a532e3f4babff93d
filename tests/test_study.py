"""Runs are put together by the settings that have an effect, and named by those that differ."""

import pandas as pd

from bbo import study
from bbo.catalog import REGULARISERS
from bbo.config import ExperimentConfig, NoiseConfig, override

BASE = ExperimentConfig()


def labels(*settings):
    return [group.method for group in groups(*settings)]


def groups(*settings):
    runs = [
        study.FinishedRun(str(i), override(BASE, **one), pd.DataFrame(), [])
        for i, one in enumerate(settings)
    ]
    return study.grouped(runs)


def test_methods_are_named_by_what_differs():
    three = [{"noise": "none"}, {"noise": "dropout", "rate": 0.1}, {"noise": "batch_bridgeout"}]
    seeds = [one | {"seed": seed} for seed in range(2) for one in three]
    assert labels(*seeds) == ["none", "batch_bridgeout", "dropout"]
    two = [{"noise": "dropout", "rate": 0.1}, {"noise": "dropout", "rate": 0.2}]
    assert labels(*two, {"noise": "none"}) == ["none", "dropout rate=0.1", "dropout rate=0.2"]
    assert labels(*two) == ["rate=0.1", "rate=0.2"]
    assert labels({"noise": "sparseout"}) == ["sparseout"]
    crossed = [{"q": q, "epochs": epochs} for q in (1.0, 2.0) for epochs in (5, 6)]
    assert labels(*crossed) == [f"q={q} epochs={n}" for q in (1, 2) for n in (5, 6)]


def test_what_has_no_effect_makes_no_group():
    plain = [{"noise": "none", "rate": 0.2}, {"noise": "none", "rate": 0.3, "seed": 1}]
    (group,) = groups(*plain, {"noise": "none", "data_dir": "elsewhere", "seed": 2})
    assert [run.config.train.seed for run in group.runs] == [0, 1, 2]
    assert len(groups({"noise": "dropout", "q": 1.0}, {"noise": "dropout", "q": 2.0})) == 1
    assert len(groups({"noise": "bridgeout", "q": 1.0}, {"noise": "bridgeout", "q": 2.0})) == 2
    assert tuple(study.USED) == REGULARISERS
    assert {name for used in study.USED.values() for name in used} | {"noise"} == set(
        vars(NoiseConfig())
    )


def test_networks_are_problems_of_their_own_and_the_baseline_is_alike():
    both = [
        {"noise": noise, "width": width} for width in (1.0, 0.5) for noise in ("none", "dropout")
    ]
    found = groups(*both, {"noise": "sparseout", "epochs": 7})
    assert [(group.problem[2], group.method) for group in found] == [
        (0.5, "none"),
        (0.5, "dropout"),
        (1.0, "none"),
        (1.0, "dropout"),
        (1.0, "sparseout"),
    ]
    # That of seven epochs has no baseline of seven epochs.
    baselines = ["none", "none", "none", "none", ""]
    assert [study.baseline_of(group, found) for group in found] == baselines
