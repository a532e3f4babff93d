"""What is made ready to be timed is what training and pruning do."""

import jax
import numpy as np
import pytest

from bbo.pipeline import progress
from bbo.pipeline.run import training_batches
from bbo.settings.config import ExperimentConfig, override
from experiments.benchmark import programs

pytestmark = pytest.mark.slow

SMALL = override(ExperimentConfig(), width=0.25, batch_size=64, noise="batch_bridgeout")


def test_random_images_are_like_those_of_the_dataset():
    config = override(ExperimentConfig(), dataset="cifar10", model="vgg16")
    found = programs.random_dataset(config, train_images=7, test_images=3)
    assert found.training.image.shape == (7, 32, 32, 3) and found.test.label.shape == (3,)
    assert found.training.image.dtype == np.uint8 and found.test.label.dtype == np.int32
    assert found.training.image.std() > 60 and not found.held_out.any()


class Recorded:
    """A compiled step that keeps the states it gives."""

    def __init__(self, step):
        self.step, self.states = step, []

    def lower(self, *arguments):
        self.compiled = self.step.lower(*arguments).compile()
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return self.compiled.memory_analysis()

    def __call__(self, *arguments):
        state, metrics = self.compiled(*arguments)
        self.states.append(jax.tree.map(np.asarray, state))
        return state, metrics


def test_a_loop_takes_the_steps_of_training():
    run = programs.made_ready(SMALL)
    recorded = Recorded(run.programs.train)
    timed = run._replace(programs=run.programs._replace(train=recorded))
    programs.training_steps(timed).loop(3)
    state = progress.beginning(run).state
    assert len(recorded.states) == 3
    for batch, found in zip(training_batches(run, 1), recorded.states, strict=False):
        state, _ = run.programs.train(state, run.images["train"], batch)
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_what_is_told_of_a_program():
    run = programs.made_ready(SMALL)
    before = jax.config.jax_compilation_cache_dir
    steps = programs.training_steps(run)
    assert jax.config.jax_compilation_cache_dir == before
    assert steps.flops == 6 * 64 * sum(run.macs.values())
    assert 0 < steps.compile_warm < steps.compile_cold
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state))
    assert steps.bytes_at_most > weights


def test_a_curve_is_measured_at_all_its_points(tmp_path, monkeypatch):
    rows, prune = [], programs.prune_network
    monkeypatch.setattr(programs, "prune_network", lambda *args: rows.extend(prune(*args)) or rows)
    run = programs.made_ready(SMALL, test_images=100)
    found = programs.curve_time(run, 4, tmp_path)
    assert [row["sparsity"] for row in rows] == [0.0, 0.3167, 0.6333, 0.95]
    assert found.points == 4 and found.curve > 0 and found.evaluations > 0
