"""The network of a run, smaller: by sparsity or by multiply-adds, and trained further."""

import jax
import numpy as np
import pytest

from bbo import compaction, cost, runs, shrinking
from bbo.config import ExperimentConfig, override
from bbo.models import kept_channels
from bbo.shrinking import Target
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
    shrunk = shrinking.shrink(run, variables, Target("sparsity", 0.5))
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
    assert shrunk.left["macs"] == pytest.approx(small / dense, rel=1e-12)
    assert 0 <= shrunk.difference < 1e-6
    assert shrinking.accuracy_of(CONFIG, shrunk.variables) == pytest.approx(
        shrinking.accuracy_of(CONFIG, shrunk.masked), abs=1 / 360 + 1e-9
    )


@pytest.mark.parametrize("measure, share", [("macs", 1.0), ("macs", 0.5), ("params", 0.1)])
def test_by_what_may_be_left(run, variables, measure, share):
    shrunk = shrinking.shrink(run, variables, Target(measure, share))
    assert shrunk.left[measure] <= share
    sizes = [cost.num_params(of["params"]) for of in (shrunk.variables, variables)]
    assert shrunk.left["params"] == pytest.approx(sizes[0] / sizes[1], rel=1e-12)
    if share == 1:
        assert shrunk.sparsity == 0
        return
    step = 1 / 2**shrinking.BISECTIONS
    before = shrinking.shrink(run, variables, Target("sparsity", shrunk.sparsity - step))
    assert before.left[measure] > share


def test_multiples_are_kept(run, variables):
    shrunk = shrinking.shrink(run, variables, Target("sparsity", 0.3), round_to=8)
    assert set(kept_channels(shrunk.variables["params"]).values()) == {16, 24}


def test_what_is_not_selected_stays(variables):
    chosen = override(CONFIG, prune_on="conv[13]/kernel")
    run = runs.set_up(chosen, devices=jax.devices()[:1])
    shrunk = shrinking.shrink(run, variables, Target("sparsity", 0.5))
    kept = kept_channels(shrunk.variables["params"])
    assert list(kept.values()) == [8, 16, 16, 32]


def test_wrong_requests(run, variables):
    with pytest.raises(UsageError, match=r"macs is 1e-06; pruning can leave no less than 0.00"):
        shrinking.shrink(run, variables, Target("macs", 1e-6))
    with pytest.raises(UsageError, match=r"sparsity is 1.0; it must be in \[0, 1\)"):
        shrinking.shrink(run, variables, Target("sparsity", 1.0))
    with pytest.raises(UsageError, match="iterations is 0"):
        shrinking.shrink_gradually(
            CONFIG, variables, Target("macs", 0.5), iterations=0, train=lambda *_: variables
        )


@pytest.mark.parametrize("target", [Target("sparsity", 0.75), Target("macs", 0.1)])
def test_several_iterations_come_to_the_same_size(variables, target):
    seen, first = [], [variables]

    def train(shrunk, number):
        seen.append((number, kept_channels(shrunk.variables["params"])["conv4"]))
        first.append(compaction.smaller(first[-1], shrunk.cut))
        return first[-1]  # as if rewound

    shrunk = shrinking.shrink_gradually(CONFIG, variables, target, iterations=3, train=train)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert [count for _, count in seen] == sorted((count for _, count in seen), reverse=True)
    sizes = [
        macs_of(runs.set_up(CONFIG), shrinking.rebuild(CONFIG, kept_channels(of["params"])), of)
        for of in (shrunk.variables, variables)
    ]
    assert shrunk.left["macs"] == pytest.approx(sizes[0] / sizes[1], rel=1e-9)
    if target.measure == "macs":
        assert shrunk.left["macs"] <= 0.1
    else:  # int() rounds down what is dropped, each time
        assert seen[-1][1] in (8, 9, 10)
        assert shrunk.sparsity == pytest.approx(0.75, rel=1e-9)


def test_training_further_learns_and_keeps_the_widths(run, variables, tmp_path):
    shrunk = shrinking.shrink(run, variables, Target("sparsity", 0.5))
    before = shrinking.accuracy_of(CONFIG, shrunk.variables)
    options = {"epochs": 4, "learning_rate": 0.05}
    tuned = shrinking.fine_tune(shrunk.variables, CONFIG, tmp_path / "fine_tune", **options)
    assert kept_channels(tuned["params"]) == kept_channels(shrunk.variables["params"])
    assert shrinking.accuracy_of(CONFIG, tuned) > before + 0.2
    again = shrinking.fine_tune(shrunk.variables, CONFIG, tmp_path / "fine_tune", **options)
    for one, other in zip(jax.tree.leaves(tuned), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
