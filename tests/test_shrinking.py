"""The network of a run, smaller: by sparsity or by multiply-adds, and trained further."""

import jax
import numpy as np
import pytest

from bbo import cost, runs, shrinking
from bbo.config import ExperimentConfig, override
from bbo.models import kept_channels
from bbo.types import UsageError

pytestmark = pytest.mark.slow
CONFIG = shrinking.for_removal(
    override(ExperimentConfig(), batch_size=64, width=0.5, recovery_images=128, epochs=2),
    scope="group",
    recovery=("batch_norm",),
)


@pytest.fixture(scope="module")
def run():
    return runs.set_up(CONFIG, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def variables(run):
    found = runs.variables_of(run.state)
    # As if trained: every norm shifts.
    draw = np.random.default_rng(0)
    shifted = jax.tree.map(
        lambda x: x + draw.uniform(0.1, 0.3, x.shape).astype(np.float32) if x.ndim == 1 else x,
        found["params"],
    )
    return found | {"params": shifted}


def macs_of(run, model, variables):
    return sum(cost.layer_macs(model, variables, run.images["test"].image.shape[1:]).values())


def test_by_sparsity(run, variables):
    shrunk = shrinking.shrink(run, variables, sparsity=0.5)
    assert kept_channels(shrunk.variables["params"]) == {
        "conv1": 8,
        "conv2": 8,
        "conv3": 16,
        "conv4": 16,
    }
    dense, small = (
        macs_of(run, model, of)
        for model, of in ((run.programs.model, variables), (shrunk.model, shrunk.variables))
    )
    assert shrunk.macs_compact == pytest.approx(small / dense, rel=1e-12)
    assert 0 <= shrunk.difference < 1e-6
    assert shrinking.accuracy_of(CONFIG, shrunk.variables) == pytest.approx(
        shrinking.accuracy_of(CONFIG, shrunk.masked), abs=1 / 360 + 1e-9
    )


@pytest.mark.parametrize("macs", [1.0, 0.5, 0.1])
def test_by_multiply_adds(run, variables, macs):
    shrunk = shrinking.shrink(run, variables, macs=macs)
    assert shrunk.macs_compact <= macs
    if macs < 1:
        step = 1 / 2**shrinking.BISECTIONS
        before = shrinking.shrink(run, variables, sparsity=shrunk.sparsity - step)
        assert before.macs_compact > macs
    else:
        assert shrunk.sparsity == 0


def test_multiples_are_kept(run, variables):
    shrunk = shrinking.shrink(run, variables, sparsity=0.3, round_to=8)
    assert set(kept_channels(shrunk.variables["params"]).values()) == {16, 24}


def test_wrong_requests(run, variables):
    with pytest.raises(UsageError, match="give one of sparsity and macs"):
        shrinking.shrink(run, variables)
    with pytest.raises(UsageError, match="give one of sparsity and macs"):
        shrinking.shrink(run, variables, sparsity=0.5, macs=0.5)
    with pytest.raises(UsageError, match="macs is 1e-06; the least that pruning can leave is more"):
        shrinking.shrink(run, variables, macs=1e-6)


def test_training_further_learns_and_keeps_the_widths(run, variables, tmp_path):
    shrunk = shrinking.shrink(run, variables, sparsity=0.5)
    before = shrinking.accuracy_of(CONFIG, shrunk.variables)
    options = {"epochs": 4, "learning_rate": 0.05}
    tuned = shrinking.fine_tune(shrunk, CONFIG, tmp_path / "fine_tune", **options)
    assert kept_channels(tuned["params"]) == kept_channels(shrunk.variables["params"])
    assert shrinking.accuracy_of(CONFIG, tuned) > before + 0.2
    again = shrinking.fine_tune(shrunk, CONFIG, tmp_path / "fine_tune", **options)
    for one, other in zip(jax.tree.leaves(tuned), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
