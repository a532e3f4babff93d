"""The network of a run, smaller: by sparsity, by what is counted, or by time."""

import jax
import jax.numpy as jnp
import pytest
import shrunken

from bbo.compaction import cost
from bbo.compaction.staying import Staying
from bbo.compaction.timing import Timed
from bbo.models.create import kept_channels
from bbo.pipeline.shrinking import shrink as shrinking
from bbo.pipeline.shrinking.goal import STEPS, Goal
from bbo.pipeline.shrinking.unremovable import NOT_SELECTED
from bbo.types import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run():
    return shrunken.set_up()


@pytest.fixture(scope="module")
def variables(run):
    return shrunken.trained(run)


def test_by_sparsity(run, variables):
    shrunk = shrinking.shrink(run, variables, Goal("sparsity", 0.5))
    assert kept_channels(shrunk.variables["params"]) == {
        "conv1": 8,
        "conv2": 8,
        "conv3": 16,
        "conv4": 16,
    }
    dense, small = (
        shrunken.macs_of(run, model, of)
        for model, of in ((run.programs.model, variables), (shrunk.model, shrunk.variables))
    )
    assert shrunk.left["macs"] == pytest.approx(small / dense, rel=1e-12)
    assert 0 <= shrunk.difference < 1e-6 and shrunk.staying == []
    assert shrinking.accuracy_of(shrunken.CONFIG, shrunk.variables) == pytest.approx(
        shrinking.accuracy_of(shrunken.CONFIG, shrunk.masked), abs=1 / 360 + 1e-9
    )


@pytest.mark.parametrize("measure, share", [("macs", 1.0), ("macs", 0.5), ("params", 0.1)])
def test_by_what_may_be_left(run, variables, measure, share):
    shrunk = shrinking.shrink(run, variables, Goal(measure, share))
    assert shrunk.left[measure] <= share
    sizes = [cost.num_params(of["params"]) for of in (shrunk.variables, variables)]
    assert shrunk.left["params"] == pytest.approx(sizes[0] / sizes[1], rel=1e-12)
    if share == 1:
        assert shrunk.sparsity == 0
        return
    step = 1 / STEPS[measure]
    before = shrinking.shrink(run, variables, Goal("sparsity", shrunk.sparsity - step))
    assert before.left[measure] > share


def test_multiples_are_kept(run, variables):
    shrunk = shrinking.shrink(run, variables, Goal("sparsity", 0.3), round_to=8)
    assert set(kept_channels(shrunk.variables["params"]).values()) == {16, 24}


def test_what_is_not_selected_stays(variables):
    run = shrunken.set_up(prune_on="conv[13]/kernel")
    shrunk = shrinking.shrink(run, variables, Goal("sparsity", 0.5))
    kept = kept_channels(shrunk.variables["params"])
    assert list(kept.values()) == [8, 16, 16, 32]
    assert shrunk.staying == [
        Staying("conv2/kernel", 16, 16, NOT_SELECTED),
        Staying("conv4/kernel", 32, 32, NOT_SELECTED),
    ]


def test_wrong_requests(run, variables):
    with pytest.raises(UsageError, match=r"macs is 1e-06; pruning can leave no less than 0.00"):
        shrinking.shrink(run, variables, Goal("macs", 1e-6))
    with pytest.raises(UsageError, match=r"sparsity is 1.0; it must be in \[0, 1\)"):
        shrinking.shrink(run, variables, Goal("sparsity", 1.0))


def clock_of(answers, seen):
    """A clock that says the share of parameters by which a network is too large, then answers."""

    def clock(network):
        seen.append(kept_channels(network.variables["params"])["conv4"])
        return answers(seen)

    return clock


def test_by_latency_the_smallest_sparsity_that_a_second_measurement_confirms(run, variables):
    """In proportion to the channels, but for one that was lucky and one that is slow."""
    seen = []

    def answers(seen):
        lucky, slow = seen == [2, 32, 30, 28, 26], seen[-1] == 22
        return 0.1 if lucky else 0.9 if slow else seen[-1] / 32

    target = Goal("latency", 0.75)
    shrunk = shrinking.shrink(run, variables, target, clock=clock_of(answers, seen))
    assert seen == [2, 32, 30, 28, 26, 26, 24, 24]
    assert shrunk.left["latency"] == 0.75 and shrunk.sparsity == 0.25
    assert kept_channels(shrunk.variables["params"])["conv4"] == 24
    seen.clear()
    target = Goal("latency", 0.7)
    shrunk = shrinking.shrink(run, variables, target, clock=clock_of(answers, seen))
    assert seen == [2, 32, 30, 28, 26, 26, 24, 22, 20, 20]
    assert shrunk.left["latency"] == 0.625 and shrunk.sparsity == 0.375


def test_latency_out_of_reach(run, variables):
    """The least is told of what was measured anywhere, and last where it was measured twice."""
    target, seen = Goal("latency", 0.25), []

    def answers(seen):
        if seen[-1] == 12:
            return 0.26
        if seen[-1] == 2:
            return 0.3
        return 0.2 if seen == [2, 32, 30, 28] else 0.4

    with pytest.raises(UsageError, match="latency is 0.25; pruning can leave no less than 0.26"):
        shrinking.shrink(run, variables, target, clock=clock_of(answers, seen))
    assert seen == [2, 32, 30, 28, *range(28, 2, -2)]


def test_latency_is_measured(run, variables):
    target = Goal("latency", 1.0, batch_size=8, seconds=0)
    clock = shrinking.clock_of(run, variables, target)
    whole = Timed(run.programs.model.apply, variables)
    assert 0.1 < clock(whole) < 10

    def forty_times(variables, x):
        step = lambda _, logits: whole.function(variables, x + logits[0, 0])  # noqa: E731
        return jax.lax.fori_loop(0, 40, step, jnp.zeros((8, 10)))

    assert clock(Timed(forty_times, variables)) > 4
