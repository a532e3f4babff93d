"""The sparsity that takes a network as far as it is to go."""

import jax.numpy as jnp
import pytest

from bbo.compaction.timing import Timed
from bbo.pipeline.shrinking import goal as targets
from bbo.pipeline.shrinking.goal import Goal
from bbo.types import UsageError


def first(target, left_at):
    return next(targets.sparsities_for(target, left_at))


@pytest.mark.parametrize("measure", ["macs", "params"])
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.3])
def test_the_smallest_sparsity_that_does(measure, share):
    asked = []

    def left_at(sparsity):
        asked.append(sparsity)
        return (1 - sparsity) ** 2

    (found,) = targets.sparsities_for(Goal(measure, share), left_at)
    assert found == min(n / 256 for n in range(256) if (1 - n / 256) ** 2 <= share)
    assert len(asked) == 9


def test_of_times_all_that_do_and_none_measured_before_it_is_asked_for():
    asked = []

    def left_at(sparsity):
        asked.append(16 * sparsity)
        return {3: 0.4, 4: 0.6, 9: 0.5, 15: 0.62}.get(asked[-1], 1.0)

    found = targets.sparsities_for(Goal("latency", 0.5), left_at)
    assert next(found) == 3 / 16 and asked == [15, 0, 1, 2, 3]
    assert list(found) == [9 / 16] and asked == [15, *range(16)]


def test_a_time_that_is_far_out_of_reach_is_told_after_one_measurement():
    asked = []

    def left_at(sparsity):
        asked.append(16 * sparsity)
        return 0.63

    message = "latency is 0.5; .* no less than 0.63 at a batch of 64; ask for 0.7 or more"
    with pytest.raises(UsageError, match=message):
        first(Goal("latency", 0.5), left_at)
    assert asked == [15]


def test_a_sparsity_is_taken_as_it_is():
    assert list(targets.sparsities_for(Goal("sparsity", 0.3), None)) == [0.3]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Goal("sparsity", 1.0), r"sparsity is 1.0; it must be in \[0, 1\)"),
        (Goal("latency", 0.0), r"latency is 0.0; it must be in \(0, 1\]"),
        (Goal("macs", 0.2), "macs is 0.2; .* leave no less than 0.25; ask for 0.25 or more"),
        (Goal("params", 0.2), "params is 0.2; pruning can leave no less than 0.25"),
    ],
)
def test_out_of_range_or_out_of_reach(target, message):
    with pytest.raises(UsageError, match=message):
        first(target, lambda sparsity: 0.25)


def test_share_of_time_of_medians_called_in_turn(monkeypatch):
    seen = []

    def latencies(runtimes, images, *, batch_sizes, seconds):
        seen.append((images.shape, batch_sizes, seconds))
        return [{"network": name, "median": m} for name, m in zip(runtimes["jax"], (4.0, 3.0))]  # noqa: B905

    monkeypatch.setattr(targets, "latencies", latencies)
    network = Timed(lambda variables, x: x, {})
    target = Goal("latency", 0.5, batch_size=4, seconds=0.25)
    share = targets.share_of_time(lambda x: x, network, jnp.ones((9, 2, 2, 1)), target)
    assert share == 0.75 and seen == [((4, 2, 2, 1), [4], 0.25)]
