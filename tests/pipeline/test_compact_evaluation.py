"""Pruned networks are measured alike with zeros in place and at the size that is left."""

import functools

import jax
import numpy as np
import pytest

from bbo import compaction
from bbo.models.create import kept_channels
from bbo.pipeline import compact_evaluation
from bbo.pipeline.curve import curve_tools, find_channels
from bbo.pipeline.run import set_up, variables_of
from bbo.settings.config import ExperimentConfig, override
from bbo.training import preemption

SMALL = override(
    ExperimentConfig(), batch_size=256, width=0.25, recovery_images=256, granularity=("filter",)
)
POLL = preemption.poller(preemption.never)


@pytest.fixture(scope="module")
def run():
    return set_up(SMALL)


def with_settings(run, **settings):
    return run._replace(config=override(run.config, **settings))


def pruned_by(run, sparsity):
    variables = variables_of(run.state)
    params = curve_tools(run, variables, POLL).prepare("filter").at(sparsity).params
    return variables | {"params": params}


def measure(run, variables):
    found = find_channels(run, variables)
    dead = functools.partial(compaction.dead_channels, found)
    return compact_evaluation.create_measure(run, found, dead, POLL)(variables)


@pytest.mark.parametrize("model", ["small_cnn", pytest.param("wrn10_1", marks=pytest.mark.slow)])
def test_both_ways_give_the_same_numbers(model, run, monkeypatch):
    made = run if model == "small_cnn" else set_up(override(SMALL, model=model, width=0.5))
    sizes, create = [], compact_evaluation.create_measurements
    monkeypatch.setattr(
        compact_evaluation,
        "create_measurements",
        lambda *args, kept: sizes.append(kept) or create(*args, kept=kept),
    )
    variables = pruned_by(made, 0.5)
    masked = measure(with_settings(made, evaluate="masked"), variables)
    assert sizes == []
    found = measure(with_settings(made, evaluate="compact"), variables)
    whole = kept_channels(variables["params"])
    (kept,) = sizes
    assert kept.keys() == whole.keys() and sum(kept.values()) < 0.9 * sum(whole.values())
    assert found.keys() == masked.keys()
    for name, value in masked.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_a_whole_network_is_measured_as_it_is(run, monkeypatch):
    monkeypatch.setattr(compact_evaluation, "create_measurements", None)
    variables = variables_of(run.state)
    compact, masked = (
        measure(with_settings(run, evaluate=way), variables) for way in ("compact", "masked")
    )
    assert compact == masked


def test_auto_removes_where_that_saves_more_than_compiling_costs(run):
    images = len(run.rows["validation"]) + len(run.rows["test"])
    # Of a network whose evaluation costs twice as much as compiling its layers.
    worth = 2 * compact_evaluation.COMPILING / images
    heavy = with_settings(run, evaluate="auto")._replace(macs=dict.fromkeys(run.macs, worth))
    saved = [compact_evaluation._saved(heavy, left) for left in (0.0, 0.4, 0.6)]
    expected = np.array([1, 0.2, -0.2]) * compact_evaluation.COMPILING * len(run.macs)
    np.testing.assert_allclose(saved, expected, rtol=1e-6)
    assert compact_evaluation._saved(with_settings(run, evaluate="auto"), 0.0) < 0
    assert compact_evaluation._saved(with_settings(heavy, evaluate="masked"), 0.0) == 0


def test_auto_keeps_zeros_on_accelerators(run, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    heavy = with_settings(run, evaluate="auto")._replace(macs={"stem": 1e18})
    assert compact_evaluation._saved(heavy, 0.0) == 0
    assert compact_evaluation._saved(with_settings(heavy, evaluate="compact"), 0.0) > 0


def test_widths_that_are_measured_are_multiples(run, monkeypatch):
    """Of 0.25 of 32, 32, 64 and 64 channels half is dead, and 4 of 8 are no multiple of 8."""
    sizes = []
    monkeypatch.setattr(
        compact_evaluation,
        "create_measurements",
        lambda *args, kept: sizes.append(kept) or {"evaluate": run.programs.evaluate},
    )
    monkeypatch.setattr(compact_evaluation, "accuracy_on", lambda *args: {})
    measure(with_settings(run, evaluate="compact"), pruned_by(run, 0.5))
    assert sizes == [{"conv1": 8, "conv2": 8, "conv3": 8, "conv4": 8}]
