"""A pruning curve of which a part fails: it is recorded, and the rest goes on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning
from bbo.pipeline import points
from bbo.settings.pruning_sections import PruningConfig
from bbo.training.finite import require_finite
from bbo.types import Preempted, UsageError


def broken_curve(fail, recovery=("none",), **broken):
    """Rows of a curve over three points, of which ``fail(call)`` is asked before each measure.

    ``broken``: tools in place of those that work.
    """
    kernels = np.random.default_rng(0).standard_normal((2, 3, 3, 2, 4)).astype(np.float32)
    params = {f"conv{i}": {"kernel": jnp.asarray(kernels[i])} for i in (0, 1)}
    variables, calls = {"params": params}, []

    def measure(variables):
        del variables
        calls.append(len(calls))
        return {"test_loss": 0.5, "test_class_top1/0": 1.0, "test_class_top1/1": np.nan} | (
            fail(calls[-1]) or {}
        )

    tools = points.CurveTools(
        prepare=lambda unit: pruning.prepare(variables["params"], granularity=unit),
        mend=lambda name, pruned: pruned if name == "none" else 1 / 0,
        evaluate=measure,
        macs={"conv0/kernel": 100, "conv1/kernel": 300},
    )._replace(**broken)
    config = PruningConfig(sparsities=(0.0, 0.25, 0.5), granularity=("filter",), recovery=recovery)
    return list(points.pruning_curve(variables, config, tools))


def test_a_point_that_fails_is_recorded_and_the_rest_goes_on():
    def fail(call):
        if call == 0:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand much more")
        return {"test_loss": np.inf, "test_top1": np.nan} if call == 2 else None

    rows = broken_curve(fail)
    assert [row["error"] for row in rows] == [
        "RuntimeError: RESOURCE_EXHAUSTED: out of memory",
        "",
        "test_loss is inf, test_top1 is nan",
    ]
    assert [row["sparsity"] for row in rows] == [0.0, 0.25, 0.5]
    assert ["test_loss" in row for row in rows] == [False, True, False]
    # A class of which there is no example is no failure.
    assert (rows[1]["test_loss"], rows[1]["test_class_top1"]) == (0.5, "1;")
    assert all("units_kept" in row for row in rows)
    json.dumps(rows, allow_nan=False)


def test_a_recovery_that_fails_leaves_the_other_one():
    rows = broken_curve(lambda call: None, recovery=("none", "batch_norm"))
    assert [row["error"] for row in rows] == ["", "ZeroDivisionError: division by zero"] * 3


def test_a_network_of_nan_is_no_point_though_it_can_be_measured():
    def mend(name, pruned):
        broken = jax.tree.map(lambda x: x * jnp.nan, pruned)
        return require_finite(pruned if name == "none" else broken)

    rows = broken_curve(lambda call: None, recovery=("none", "batch_norm"), mend=mend)
    told = "params/conv0/kernel, params/conv1/kernel are not finite (144 of 144 numbers)"
    assert [row["error"] for row in rows] == ["", told] * 3
    assert ["test_loss" in row for row in rows] == [True, False] * 3


def test_scores_that_fail_are_recorded_at_each_of_their_points():
    def prepare(unit):
        raise RuntimeError(f"out of memory for {unit}s")

    rows = broken_curve(lambda call: None, recovery=("none", "batch_norm"), prepare=prepare)
    assert [row["error"] for row in rows] == ["RuntimeError: out of memory for filters"] * 6
    assert [row["sparsity"] for row in rows] == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]
    assert all("units_kept" not in row and "test_loss" not in row for row in rows)


def test_pruning_that_fails_leaves_the_other_sparsities():
    kept = []

    def compact(variables):
        kept.append(variables)
        if len(kept) == 2:
            raise RuntimeError("out of memory")
        return {"macs_compact": 1.0}

    rows = broken_curve(lambda call: None, compact=compact)
    assert [row["error"] for row in rows] == ["", "RuntimeError: out of memory", ""]
    assert ["macs_compact" in row for row in rows] == [True, False, True]
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("error", [Preempted(7), KeyboardInterrupt(), UsageError("typo")])
def test_what_ends_a_run_is_no_failure_of_a_point(error):
    def fail(call):
        if call == 1:
            raise error

    with pytest.raises(type(error)):
        broken_curve(fail)


def test_of_many_processes_none_goes_on_alone(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        broken_curve(lambda call: None, recovery=("batch_norm",))
