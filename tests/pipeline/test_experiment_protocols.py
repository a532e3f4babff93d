"""Runs by other protocols: selection, divergence, the published settings, bfloat16."""

import jax.numpy as jnp
import numpy as np
import pytest
import small_run

from bbo import files
from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.loop import _select
from bbo.pipeline.progress import Progress
from bbo.pipeline.run import Trained
from bbo.settings.config import ExperimentConfig, override
from bbo.training.step import TrainState
from bbo.types import RunError
from experiments import presets as configs

SMALL = small_run.SETTINGS | {"epochs": 2}


@pytest.mark.parametrize("accuracies", [[0.1, 0.7, 0.3], [0.7, 0.1, 0.7], [1 / 3, 1 / 3, 0.2]])
def test_selection_keeps_the_latest_of_equals(accuracies):
    state = TrainState(jnp.zeros(()), {"w": jnp.ones(2)}, {}, ())
    expected = max((accuracy, epoch) for epoch, accuracy in enumerate(accuracies, start=1))
    config = override(ExperimentConfig(), select="best_validation")
    best = Trained({}, np.int32(0), np.float32(-1))
    for done, accuracy in enumerate(accuracies):
        progress = Progress(state, best, epochs=done, collected=[], seconds=0.0)
        best = _select(config, progress, accuracy)
    assert (float(best.accuracy), int(best.epoch)) == (np.float32(expected[0]), expected[1])


@pytest.mark.slow
def test_divergence_names_the_epoch_and_finishes_nothing(tmp_path):
    config = override(ExperimentConfig(), **SMALL, learning_rate=1e30)
    with pytest.raises(
        RunError, match=r"diverged in step \d of epoch 1: the loss is (nan|inf); params"
    ):
        run_experiment(config, tmp_path)
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "curve.csv").exists()


@pytest.mark.slow
def test_the_published_protocol_runs_on_digits(tmp_path):
    published = override(configs.published, dataset="digits", model="small_cnn")
    config = override(published, **SMALL)
    result = run_experiment(config, tmp_path)
    assert not [name for name in result.curve.columns if name.startswith("validation")]
    assert set(result.curve["meaning"]) == {"published"}
    assert set(result.curve["recovery"]) == {"none"}
    records = files.read_lines(tmp_path / "metrics.jsonl")
    best = max((row["test_top1"], row["epoch"]) for row in records)
    assert (result.curve["test_top1"][0], result.summary["selected_epoch"]) == best


@pytest.mark.slow
def test_bfloat16_learns(tmp_path):
    longer = SMALL | {"epochs": 6, "batch_size": 64}
    config = override(ExperimentConfig(), **longer, dtype="bfloat16", select="last")
    result = run_experiment(config, tmp_path)
    assert result.curve["test_top1"].iloc[1] > 0.5
    assert np.isfinite(result.curve["test_loss"]).all()
