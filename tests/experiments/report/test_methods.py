"""Methods are named by what differs."""

from bbo.settings.config import ExperimentConfig, override
from bbo.settings.method import settings_of
from experiments.report import methods


def settings(**changes):
    return settings_of(override(ExperimentConfig(), **changes))


def test_numbers_that_are_written_alike_are_told_apart():
    found = [settings(noise="dropout", rate=rate) for rate in (0.3, 3 * 0.1, 0.4)]
    names = [methods.label(one, found) for one in found]
    assert names == ["rate=0.3", "rate=0.30000000000000004", "rate=0.4"]
    exact = (0.25, 60 / 230)
    found = [settings(milestones=given) for given in (exact, (0.25, round(60 / 230, 6)))]
    names = [methods.label(one, found) for one in found]
    assert names == ["milestones=0.25,0.2608695652173913", "milestones=0.25,0.26087"]
