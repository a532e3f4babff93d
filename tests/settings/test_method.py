"""What makes a method is what changes its numbers."""

import pytest

from bbo.settings import method
from bbo.settings.catalog import REGULARISERS, noise_settings
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.noise_section import NoiseConfig

BASE = ExperimentConfig()
TAYLOR = {"criterion": "taylor", "recovery": ("none",)}


def settings(**changes):
    return method.settings_of(override(BASE, **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"data_dir": "elsewhere"},
        {"parallel": "pmap"},
        {"checkpoint_every": 3},
        {"sparsities": (0.0, 0.5)},
        {"granularity": ("filter",)},
        {"recovery": ("none", "batch_norm", "least_squares")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_no_number_makes_no_method(change):
    assert settings(**change) == settings()


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.4},
        {"weight_decay": 0.1},
        {"criterion": "l1"},
        {"scope": "global"},
        {"meaning": "published"},
        {"recovery_images": 7},
        {"select": "last"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_numbers_makes_a_method(change):
    assert settings(**change) != settings()


def test_settings_of_noise_count_if_they_are_used():
    assert settings(noise="none", rate=0.2) == settings(noise="none")
    assert settings(noise="dropout", q=1.0) == settings(noise="dropout", q=2.0)
    assert settings(noise="bridgeout", q=1.0) != settings(noise="bridgeout", q=2.0)
    assert settings(noise="none", distill=0.5) == settings(noise="none")
    assert settings(noise="dropout", distill=0.0) != settings(noise="dropout", clean_share=0.5)
    used = {name for noise in REGULARISERS for name in noise_settings(noise)}
    assert used | {"noise"} == set(vars(NoiseConfig()))


def test_images_for_recovery_count_if_something_looks_at_them():
    unmended = settings(recovery=("none",), recovery_images=7)
    assert unmended == settings(recovery=("none",)) and unmended["recovery_images"] is None
    assert settings(**TAYLOR, recovery_images=7) != settings(**TAYLOR)


def test_a_run_that_was_not_mended_belongs_to_those_that_were():
    changes = [
        {"recovery": ("none",), "recovery_images": 7},
        {"recovery_images": 8},
        {"recovery_images": 9},
        {"recovery": ("none",), "rate": 0.4},
    ]
    found = method.settings_of_all(override(BASE, **change) for change in changes)
    assert [one["recovery_images"] for one in found] == [8, 8, 9, None]
    assert found[0] == found[1] and found[1] == settings(recovery_images=8)


def test_zero_is_one_method_whatever_its_sign():
    assert str(settings(weight_decay=-0.0)) == str(settings(weight_decay=0.0))
