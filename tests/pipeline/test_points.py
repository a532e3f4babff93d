"""A pruning curve by hand: its rows, its few programs, and what it measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import pruning
from bbo.pipeline.points import CurveTools, pruning_curve
from bbo.pruning import pruner
from bbo.settings.pruning_sections import PruningConfig


def make_variables():
    kernels = np.random.default_rng(0).standard_normal((2, 3, 3, 2, 4)).astype(np.float32)
    return {
        "params": {f"conv{i}": {"kernel": jnp.asarray(kernels[i])} for i in (0, 1)},
        "batch_stats": {"mean": jnp.zeros(4)},
    }


@pytest.fixture(scope="module")
def curve():
    """The rows, how often each program was traced, and the measure of the unpruned network."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield draw_curve(monkeypatch)


def draw_curve(monkeypatch):
    traces = {"masks": 0, "evaluate": 0}

    def count(module, name):
        original = getattr(module, name)

        def counted(*args, **options):
            traces[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(pruner, "masks")
    pruner._pruned.clear_cache()

    @jax.jit
    def measure(variables):
        traces["evaluate"] += 1
        leaves = jax.tree.leaves(variables["params"])
        return sum(jnp.sum(jnp.abs(x)) for x in leaves) + jnp.sum(variables["batch_stats"]["mean"])

    variables = make_variables()
    config = PruningConfig(sparsities=(0.0, 0.25, 0.5, 0.9), granularity=("filter", "weight"))
    tools = CurveTools(
        prepare=lambda unit: pruning.prepare(variables["params"], granularity=unit),
        mend=lambda name, v: (
            v if name == "none" else v | {"batch_stats": {"mean": v["batch_stats"]["mean"] + 1}}
        ),
        evaluate=lambda v: {"test_top1": float(measure(v))},
        macs={"conv0/kernel": 100, "conv1/kernel": 300},
    )
    return list(pruning_curve(variables, config, tools)), traces, float(measure(variables))


def test_curve_is_traced_once_per_granularity_and_evaluated_by_one_program(curve):
    rows, traces, _ = curve
    assert len(rows) == 2 * 4 * 2
    assert traces == {"masks": 2, "evaluate": 1}


def test_curve_rows(curve):
    rows, _, unpruned = curve
    columns = "criterion granularity scope meaning recovery sparsity achieved_sparsity "
    columns += "units_kept params_kept macs_kept test_top1 error"
    assert all(set(row) == set(columns.split()) for row in rows)
    points = [(row["granularity"], row["sparsity"], row["recovery"]) for row in rows]
    assert points == [
        (granularity, sparsity, recovery)
        for granularity in ("filter", "weight")
        for sparsity in (0.0, 0.25, 0.5, 0.9)
        for recovery in ("none", "batch_norm")
    ]
    for row in rows:
        # A filter competes with three others, a weight with the 17 others of its filter.
        units = 4 if row["granularity"] == "filter" else 18
        achieved = int(units * row["sparsity"]) / units
        share = {"params_kept": 1 - achieved, "macs_kept": 1 - achieved, "units_kept": 1 - achieved}
        assert {name: row[name] for name in share} == pytest.approx(share, abs=1e-6)
        assert row["achieved_sparsity"] == pytest.approx(achieved, abs=1e-6)
    mended = {row["recovery"]: row["test_top1"] for row in rows if row["sparsity"] == 0}
    assert mended["none"] == unpruned
    assert mended["batch_norm"] == pytest.approx(unpruned + 4)


def test_curve_measures_the_pruned_network(curve):
    rows, _, _ = curve
    kernels = [np.asarray(c["kernel"]) for c in make_variables()["params"].values()]

    def remaining(kernel):
        norms = np.linalg.norm(kernel.reshape(-1, 4), axis=0)
        return np.abs(kernel)[..., norms >= np.sort(norms)[2]].sum()

    (row,) = (
        row
        for row in rows
        if (row["granularity"], row["sparsity"], row["recovery"]) == ("filter", 0.5, "none")
    )
    np.testing.assert_allclose(row["test_top1"], sum(map(remaining, kernels)), rtol=1e-6)
