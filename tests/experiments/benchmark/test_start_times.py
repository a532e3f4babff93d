"""What a run takes before its first step is measured on what a run does."""

from bbo.settings.config import ExperimentConfig
from experiments.benchmark import start_times


def test_images_are_loaded_twice():
    found = start_times.load_seconds(ExperimentConfig())
    assert list(found) == ["load digits", "load digits, again"]
    assert all(seconds > 0 for seconds in found.values())


def test_a_fresh_process_imports_what_a_run_needs(monkeypatch):
    monkeypatch.setattr(start_times, "IMPORTS", 1)
    # More than an interpreter that does nothing takes: jax alone is most of a second.
    assert start_times.import_seconds()["import bbo.pipeline.experiment"] > 0.3
