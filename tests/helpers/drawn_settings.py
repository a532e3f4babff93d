"""Settings for Hypothesis: valid ones, and whatever a record may hold."""

import dataclasses

from hypothesis import strategies as st

from bbo.settings.config import ExperimentConfig, override, sections
from bbo.types import UsageError

FIELDS = {
    field.name: (section, field)
    for section, kind in sections(ExperimentConfig).items()
    for field in dataclasses.fields(kind)
}
"""The section and the field of each setting."""
TEXTS = ("", "kernel$", "conv.*/kernel", "small_cnn", "resnet18", "wrn10_2", "~/data", "/a b/é")
SHARES = st.floats(0, 1) | st.sampled_from([0, 1, 0.125, 0.9, 1e-3])


def _value(field):
    """A value of the type of a setting; it may be out of range."""
    one_of, some_of = field.metadata["one_of"], field.metadata["some_of"]
    if one_of:
        return st.sampled_from(list(one_of))
    if some_of:
        return st.lists(st.sampled_from(list(some_of)), min_size=1, unique=True).map(tuple)
    return {
        tuple: st.lists(SHARES, max_size=4, unique=True).map(sorted).map(tuple),
        bool: st.booleans(),
        int: st.integers(0, 300),
        float: SHARES | st.floats(0, 100),
        str: st.sampled_from(TEXTS),
    }[type(field.default)]


CHANGES = st.sampled_from(list(FIELDS)).flatmap(
    lambda name: st.tuples(st.just(name), _value(FIELDS[name][1]))
)


def _fitting(changes):
    """The default settings with those of the changes that fit, one after the other."""
    config = ExperimentConfig()
    for name, value in changes:
        try:
            config = override(config, **{name: value})
        except UsageError as error:
            assert "\n" not in str(error)
    return config


SETTINGS = st.lists(CHANGES, min_size=8, max_size=30).map(_fitting)
"""Valid ones."""
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


VALUES = JSON | st.lists(JSON, max_size=2).map(tuple) | CHANGES.map(lambda change: change[1])
"""Of a setting, and what none has."""


def _in_section(name):
    own = [setting for setting, (section, _) in FIELDS.items() if section == name]
    values = {setting: JSON | _value(FIELDS[setting][1]) for setting in own}
    one = st.sampled_from(own).flatmap(lambda key: st.tuples(st.just(key), values[key]))
    return st.lists(one, max_size=3).map(dict) | JSON


RECORDS = JSON | st.fixed_dictionaries(
    {}, optional={name: _in_section(name) for name in {s for s, _ in FIELDS.values()}}
)
"""What may stand in the place of the record of a configuration."""
