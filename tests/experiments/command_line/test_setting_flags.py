"""Random valid settings survive the way through flags, and through JSON."""

import dataclasses
import json

import drawn_settings
import pytest
from hypothesis import given

from bbo.settings import from_json, to_json
from bbo.types import UsageError
from experiments import presets, run
from experiments.command_line import program, setting_flags


def argument(name, value):
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{name}={text}"


@given(config=drawn_settings.SETTINGS)
def test_settings_come_back_from_flags_and_json(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    # Every setting is given: the presets have other defaults.
    flat = {
        name: value for part in dataclasses.asdict(config).values() for name, value in part.items()
    }
    arguments = [argument(name, value) for name, value in flat.items()]
    assert program.parse(run.FLAGS, ["run", *arguments]) == []
    assert setting_flags.settings_from(run.FLAGS, presets.PRESETS) == config


@pytest.mark.parametrize("text", ["0,x", "", ","])
def test_numbers_that_are_none(text):
    with pytest.raises(UsageError, match="must be numbers separated by commas"):
        setting_flags.numbers("sparsities", text.split(","))
