"""Runs are put together by their method, named by what differs, and held against a baseline."""

import json

import pandas as pd
import pytest

from bbo.pipeline import finished
from bbo.settings.config import ExperimentConfig, override
from bbo.types import UsageError
from experiments.report.finished_runs import baseline_of, grouped, renamed

BASE = ExperimentConfig()


def labels(*settings):
    return [group.method for group in groups(*settings)]


def groups(*settings):
    runs = [
        finished.FinishedRun(str(i), override(BASE, **one), pd.DataFrame(), [])
        for i, one in enumerate(settings)
    ]
    return grouped(runs)


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


def test_seeds_and_points_are_put_together():
    plain = [{"noise": "none", "rate": 0.2}, {"noise": "none", "rate": 0.3, "seed": 1}]
    (group,) = groups(
        *plain,
        {"noise": "none", "data_dir": "elsewhere", "seed": 3},
        {"noise": "none", "checkpoint_every": 1, "recovery": ("none",), "seed": 2},
    )
    assert [run.config.train.seed for run in group.runs] == [0, 1, 2, 3]


def test_networks_are_problems_of_their_own():
    both = [
        {"noise": noise, "width": width} for width in (1.0, 0.5) for noise in ("none", "dropout")
    ]
    found = groups(*both)
    assert [(group.problem[2], group.method) for group in found] == [
        (0.5, "none"),
        (0.5, "dropout"),
        (1.0, "none"),
        (1.0, "dropout"),
    ]


def measured(*runs):
    """Groups of runs ``(accuracy on validation images at sparsity 0 or None, settings)``."""
    made = []
    for i, (accuracy, settings) in enumerate(runs):
        rows = [
            {"sparsity": sparsity, "recovery": recovery, "validation_top1": value}
            for sparsity, recovery, value in [
                (0.0, "none", accuracy),
                (0.5, "none", 0.99),  # of no account: pruned
                (0.0, "batch_norm", 0.99),  # mended
            ]
        ]
        curve = pd.DataFrame(rows if accuracy is not None else [])
        made.append(finished.FinishedRun(str(i), override(BASE, **settings), curve, []))
    return grouped(made)


def baselines(*runs):
    found = measured(*runs)
    return {group.method: baseline_of(group, found) for group in found}


NONE = {"noise": "none"}


def test_the_baseline_is_the_best_without_regulariser_on_validation_images():
    other = {"weight_decay": 0.1}
    assert baselines((0.9, NONE), (0.8, NONE | other), (1.0, other), (1.0, {"epochs": 7})) == {
        "none weight_decay=0.0005": "none weight_decay=0.0005",
        "none weight_decay=0.1": "none weight_decay=0.0005",
        "batch_bridgeout epochs=230": "none weight_decay=0.0005",
        "batch_bridgeout epochs=7": "none weight_decay=0.0005",
    }
    # The mean over seeds: 75 % and 80 %.
    seeds = [(0.9, NONE), (0.6, NONE | {"seed": 1}), (0.8, NONE | other), (1.0, {})]
    assert set(baselines(*seeds).values()) == {"none weight_decay=0.1"}


def test_of_equal_baselines_the_one_that_is_otherwise_alike():
    two = [{}, {"weight_decay": 0.1}]
    found = baselines(*((0.9, noise | one) for noise in (NONE, {}) for one in two))
    assert found["batch_bridgeout weight_decay=0.1"] == "none weight_decay=0.1"
    assert found["batch_bridgeout weight_decay=0.0005"] == "none weight_decay=0.0005"


def test_without_validation_images_the_baseline_is_the_only_one_or_alike():
    two = [{}, {"weight_decay": 0.1}, {"epochs": 7}]
    assert baselines((None, NONE), (None, two[1]))["batch_bridgeout"] == "none"
    found = baselines((None, NONE), (None, NONE | two[1]), *((None, one) for one in two))
    assert found["batch_bridgeout weight_decay=0.1"] == "none weight_decay=0.1"
    assert found["batch_bridgeout epochs=7"] == ""


def test_the_baseline_is_of_the_same_problem_and_pruned_in_the_same_way():
    assert set(baselines((0.9, NONE), (0.9, {"scope": "global"})).values()) == {"none", ""}
    assert set(baselines((0.9, NONE | {"width": 0.5}), (0.9, {})).values()) == {"none", ""}
    images = {"recovery_images": 7}  # it is not mended
    assert set(baselines((0.9, NONE), (0.9, images)).values()) == {"none"}


def test_what_is_told_tells_methods_apart():
    """Not what has no effect and is left out of the text."""
    nested = {"noise": "nested_dropping"}
    any_share = nested | {"target_fraction": 0.9, "clean_share": 0.5}
    shares = nested | {"removed_shares": (0.5, 0.7), "clean_share": 0.65, "ramp_up": 1.0}
    found = labels({"noise": "none"}, any_share, shares)
    assert len(set(found)) == 3 and "nested_dropping" not in found


def test_methods_by_names_of_ones_own(tmp_path):
    found = groups({"noise": "none"}, {"noise": "dropout"})
    path = tmp_path / "names.json"
    assert renamed(found, [tmp_path]) == found
    path.write_text(json.dumps({"dropout": "ours"}))
    assert [group.method for group in renamed(found, [tmp_path])] == ["none", "ours"]
    for names, told in (
        ({"bridge": "ours"}, "no method is called 'bridge'; there are: dropout; none"),
        ({"dropout": "none"}, "two methods get the same name"),
        ([], "not a JSON object"),
    ):
        path.write_text(json.dumps(names))
        with pytest.raises(UsageError, match=told):
            renamed(found, [tmp_path])
