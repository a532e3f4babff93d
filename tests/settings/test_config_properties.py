"""Any record is a configuration, or it is refused in a sentence."""

import json

import drawn_settings
from hypothesis import given

from bbo.settings.config import from_json, override, to_json
from bbo.types import UsageError


@given(record=drawn_settings.RECORDS)
def test_a_record_is_settings_or_is_refused(record):
    try:
        config = from_json(record)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert from_json(json.loads(json.dumps(to_json(config), allow_nan=False))) == config


@given(config=drawn_settings.SETTINGS, value=drawn_settings.VALUES)
def test_a_setting_is_what_was_given_or_is_refused(config, value):
    for name in drawn_settings.FIELDS:
        try:
            changed = override(config, **{name: value})
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            section = getattr(changed, drawn_settings.FIELDS[name][0])
            assert getattr(section, name) == value
