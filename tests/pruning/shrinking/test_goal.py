"""How many channels have to go, by hand."""

import numpy as np
import pytest

from bbo.pruning.shrinking.goal import Goal, Limits, reached
from bbo.types import UsageError

SCORES = {"a": np.arange(256.0), "b": np.arange(64.0)}
LIMITS = Limits("group", 0.0, 1)


def left_at(counts):
    return (1 - counts["a"] / 256) ** 2


@pytest.mark.parametrize("fewest", [0, 1, 2, 3, 50, 127, 128, 129, 253, 254, 255])
def test_no_more_go_than_reach_the_share(fewest):
    goal = Goal("macs", left_at({"a": fewest}))
    assert reached(goal, left_at, SCORES, SCORES, LIMITS) == {"a": fewest, "b": fewest // 4}


def test_one_of_each_stays():
    with pytest.raises(UsageError, match="macs is 1e-06; removing can leave no less than 1.53e-05"):
        reached(Goal("macs", 1e-6), left_at, SCORES, SCORES, LIMITS)
    scores = {"strong": np.arange(10.0, 20.0), "weak": np.arange(10.0)}
    found = reached(Goal("keep", 0.1), left_at, scores, scores, Limits("global", 0.0, 1))
    assert found == {"strong": 8, "weak": 9}
