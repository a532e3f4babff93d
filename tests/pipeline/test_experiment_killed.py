"""A run that is killed ends as one left in peace; ``python -m tests.faults`` has more kinds."""

import pytest

from tests.faults.kills import KINDS, killed_runs
from tests.faults.runs import results, run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["during a save"])
def test_it_ends_as_if_it_had_not_been_killed(name, tmp_path):
    assert run(tmp_path / "undisturbed", KINDS[name].settings).status == 0
    expected = results(tmp_path / "undisturbed")
    assert {"curve.csv", "metrics.jsonl", "summary.json: network"} <= expected.keys()
    ended = list(killed_runs(name, 1, 0, 0.0, expected, tmp_path))
    assert sum(one.kills for one in ended) == 1
    assert [one.told for one in ended if not one.same] == []
