"""The sparsity that takes a network as far as it is to go."""

import jax.numpy as jnp
import pytest

from bbo import savings, targets
from bbo.savings import Network
from bbo.targets import Target
from bbo.types import UsageError


def first(target, left_at):
    return next(targets.sparsities_for(target, left_at))


@pytest.mark.parametrize("measure", targets.STEPS)
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.3])
def test_the_smallest_step_that_does(measure, share):
    steps, asked = targets.STEPS[measure], []

    def left_at(sparsity):
        asked.append(sparsity)
        return (1 - sparsity) ** 2

    found = first(Target(measure, share), left_at)
    assert found == min(n / steps for n in range(steps) if (1 - n / steps) ** 2 <= share)
    assert len(asked) == {256: 9, 32: 6}[steps]


def test_what_is_beyond_ends_where_a_channel_must_stay():
    beyond = targets.sparsities_for(Target("latency", 0.1), lambda sparsity: 1 - sparsity)
    assert list(beyond) == [29 / 32, 30 / 32, 31 / 32]


def test_a_sparsity_is_taken_as_it_is():
    assert list(targets.sparsities_for(Target("sparsity", 0.3), None)) == [0.3]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("sparsity", 1.0), r"sparsity is 1.0; it must be in \[0, 1\)"),
        (Target("latency", 0.0), r"latency is 0.0; it must be in \(0, 1\]"),
        (Target("latency", 0.2), "latency is 0.2; pruning can leave no less than 0.25"),
        (Target("params", 0.2), "params is 0.2; pruning can leave no less than 0.25"),
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

    monkeypatch.setattr(savings, "latencies", latencies)
    network = Network(lambda variables, x: x, {})
    target = Target("latency", 0.5, batch_size=4, seconds=0.25)
    share = targets.share_of_time(lambda x: x, network, jnp.ones((9, 2, 2, 1)), target)
    assert share == 0.75 and seen == [((4, 2, 2, 1), [4], 0.25)]
