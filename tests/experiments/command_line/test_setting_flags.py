"""Random valid settings survive the way through flags, and through JSON."""

import dataclasses
import json
import random

import pytest

from bbo.settings import ExperimentConfig, from_json, override, to_json
from bbo.settings.config import sections
from bbo.types import UsageError
from experiments import presets, run
from experiments.command_line import program, setting_flags

TEXTS = {
    "model": ["small_cnn", "resnet18", "wrn10_2", "thin_resnet34"],
    "noise_on": ["", "kernel$", "conv.*/kernel"],
    "prune_on": ["", "conv"],
    "data_dir": ["~/data", "/a b/c"],
    "cache_dir": ["cache"],
}


def drawn(field, generator):
    """A value of the type of a setting; it may be out of range."""
    one_of, some_of = (list(field.metadata[name]) for name in ("one_of", "some_of"))
    if one_of:
        return generator.choice(one_of)
    if some_of:
        return tuple(generator.sample(some_of, generator.randint(1, len(some_of))))
    if isinstance(field.default, tuple):
        return tuple(sorted({round(generator.uniform(0.01, 0.95), 3) for _ in range(4)}))
    if isinstance(field.default, bool):
        return generator.random() < 0.5
    if isinstance(field.default, int):
        return generator.randint(1, 300)
    if isinstance(field.default, float):
        return generator.choice([0.0, 0.125, 0.9, 1e-3, round(generator.uniform(0, 2), 6)])
    return generator.choice(TEXTS[field.name])


def random_settings(count):
    """Valid ones, of some sections each, with the changes that make them."""
    generator, found = random.Random(7), []
    fields = [f for kind in sections(ExperimentConfig).values() for f in dataclasses.fields(kind)]
    while len(found) < count:
        changes = {f.name: drawn(f, generator) for f in generator.sample(fields, 8)}
        try:
            found.append((changes, override(ExperimentConfig(), **changes)))
        except UsageError:
            continue
    return found


def argument(name, value):
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{name}={text}"


def test_settings_come_back_from_flags_and_json():
    cases = random_settings(100)
    assert len({name for changes, _ in cases for name in changes}) > 35
    for changes, config in cases:
        assert from_json(json.loads(json.dumps(to_json(config)))) == config
        # Every setting is given: the presets have other defaults.
        flat = {
            name: value
            for part in dataclasses.asdict(config).values()
            for name, value in part.items()
        }
        arguments = [argument(name, value) for name, value in flat.items()]
        assert program.parse(run.FLAGS, ["run", *arguments]) == []
        assert setting_flags.settings_from(run.FLAGS, presets.PRESETS) == config, changes


@pytest.mark.parametrize("text", ["0,x", "", ","])
def test_numbers_that_are_none(text):
    with pytest.raises(UsageError, match="must be numbers separated by commas"):
        setting_flags.numbers("sparsities", text.split(","))
