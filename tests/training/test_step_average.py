"""The moving average of the weights: by formula, and what a run evaluates and prunes."""

import jax
import numpy as np
import pytest

from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.run import set_up, training_batches, variables_of
from bbo.settings.config import ExperimentConfig, override
from bbo.types import Preempted

SMALL = override(
    ExperimentConfig(),
    epochs=2,
    batch_size=256,
    width=0.125,
    average_decay=0.5,
    granularity=("filter",),
    sparsities=(0.0, 0.5),
    recovery=("none",),
)


def test_it_is_that_of_the_weights_and_statistics():
    run = set_up(SMALL)
    state = run.state
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.batch_stats))]
    for count, batch in enumerate(training_batches(run, 1)):
        state, _ = run.programs.train(state, run.images["train"], batch)
        kept = min(0.5, (1 + count) / (10 + count))
        now = jax.tree.leaves((state.params, state.batch_stats))
        expected = [
            kept * old + (1 - kept) * np.asarray(new)
            for old, new in zip(expected, now, strict=True)
        ]
        for found, wanted in zip(jax.tree.leaves(state.average), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert variables_of(state)["params"] is state.average[0]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_it(tmp_path):
    whole = run_experiment(SMALL, tmp_path / "whole")
    with pytest.raises(Preempted):
        run_experiment(SMALL, tmp_path / "parts", lambda count: count == 3)
    assert run_experiment(SMALL, tmp_path / "parts").curve.equals(whole.curve)
    plain = run_experiment(override(SMALL, average_decay=0.0), tmp_path / "plain")
    assert not plain.curve["test_loss"].equals(whole.curve["test_loss"])
