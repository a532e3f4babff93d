"""What another process does in a folder while a run waits for it is seen."""

import json

import pytest

from bbo import files
from bbo.pipeline import experiment
from bbo.settings.config import ExperimentConfig, override, to_json
from bbo.types import UsageError

CONFIG = ExperimentConfig()


def meanwhile(monkeypatch, *steps):
    """While a run is made ready, which is before it has the folder, this is done."""
    monkeypatch.setattr(experiment, "_tell_left_out", lambda run: None)
    monkeypatch.setattr(experiment, "set_up", lambda config, like=None: [step() for step in steps])


def begin(folder, config):
    folder.mkdir(exist_ok=True)
    files.write_json(folder / "config.json", {"config": to_json(config), "environments": []})


def test_a_run_of_other_settings_that_began_meanwhile_is_left_alone(tmp_path, monkeypatch):
    folder, other = tmp_path / "run", override(CONFIG, seed=7)
    meanwhile(monkeypatch, lambda: begin(folder, other))
    with pytest.raises(UsageError, match=r"another configuration \(seed is 7 there, 0 here\)"):
        experiment.run_experiment(CONFIG, folder)
    assert json.loads((folder / "config.json").read_text())["config"] == to_json(other)
    members = [tmp_path / "first", tmp_path / "second"]
    meanwhile(monkeypatch, lambda: begin(members[1], other))
    with pytest.raises(UsageError, match="seed is 7 there, 1 here"):
        experiment.run_members([CONFIG, override(CONFIG, seed=1)], members)


def test_a_run_that_was_finished_meanwhile_is_read(tmp_path, monkeypatch):
    def finish():
        begin(tmp_path / "run", CONFIG)
        files.write_text(tmp_path / "run/curve.csv", "sparsity\n0.5\n")
        files.write_json(tmp_path / "run/summary.json", {"macs": 3})

    monkeypatch.setattr(experiment, "damaged_records", lambda *_: [])  # which it tells of itself
    meanwhile(monkeypatch, finish)
    result = experiment.run_experiment(CONFIG, tmp_path / "run")
    assert result.summary == {"macs": 3} and result.curve["sparsity"].tolist() == [0.5]
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["environments"] == []  # nothing has run
