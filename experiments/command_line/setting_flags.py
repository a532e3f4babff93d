"""Flags for every setting of an experiment: one per field, with the field's own help text."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from bbo.settings.config import ExperimentConfig, override, sections
from bbo.types import UsageError


def define_settings(flag_values: flags.FlagValues, presets: dict[str, ExperimentConfig]) -> None:
    """Defines ``--preset`` and a flag for every setting; a flag not given leaves the preset's.

    Args:
      flag_values: where to define them.
      presets: by name; the first is the default. PRESET/NETWORK_DATASET is PRESET with that network
        and dataset.
    """
    flags.DEFINE_enum(
        "preset",
        next(iter(presets)),
        list(presets),
        "settings to start from; every flag below changes one of them",
        flag_values=flag_values,
        module_name=" run",  # the blank puts it first in the help text
    )
    for section, kind in sections(ExperimentConfig).items():
        for field in dataclasses.fields(kind):
            values = {
                name: getattr(getattr(preset, section), field.name)
                for name, preset in presets.items()
                if "/" not in name  # the others differ from these in network and dataset only
            }
            text = f"{field.metadata['help']} [{_presets_text(values)}]"
            _define(
                field, text, flag_values, heading=f"{section} - {(kind.__doc__ or '').rstrip('.')}"
            )


def _presets_text(values: dict[str, Any]) -> str:
    shown = {name: _as_text(value) for name, value in values.items()}
    if len(set(shown.values())) == 1:
        return f"default: {next(iter(shown.values()))}"
    return "; ".join(f"{name}: {value}" for name, value in shown.items())


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_as_text(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _define(
    field: dataclasses.Field, text: str, flag_values: flags.FlagValues, *, heading: str
) -> None:
    name, one_of = field.name, field.metadata["one_of"]
    place = {"flag_values": flag_values, "module_name": heading}
    if one_of:
        flags.DEFINE_enum(name, None, list(one_of), text, **place)
        return
    define = {
        bool: flags.DEFINE_boolean,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        tuple: flags.DEFINE_list,
    }[type(field.default)]
    define(name, None, text, **place)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}
    if type(field.default) in wanted:
        flag = flag_values[name]
        flag.parser = _with_plain_error(flag.parser, wanted[type(field.default)])


def _with_plain_error(parser: flags.ArgumentParser, wanted: str) -> flags.ArgumentParser:
    """The parser, with an error that says what is wanted and not how Python failed."""

    def parse(argument: str) -> Any:
        try:
            return parser.parse(argument)
        except (TypeError, ValueError):
            raise ValueError(f"it must be {wanted}") from None

    plain = copy.copy(parser)  # absl shares one parser between the flags of all programs
    plain.parse = parse
    return plain


def settings_from(
    flag_values: flags.FlagValues, presets: dict[str, ExperimentConfig]
) -> ExperimentConfig:
    """The configuration that parsed flags ask for.

    Raises:
      UsageError: a value out of range, or settings that contradict each other.
    """
    given = {}
    for kind in sections(ExperimentConfig).values():
        for field in dataclasses.fields(kind):
            value = flag_values[field.name].value
            if value is not None:
                given[field.name] = _convert(field, value)
    return override(presets[flag_values["preset"].value], **given)


def _convert(field: dataclasses.Field, value: Any) -> Any:
    """Lists to tuples, of numbers unless they are choices; empty where that is the default."""
    if not isinstance(value, list):
        return value
    if field.metadata["some_of"] or value == list(field.default) == []:
        return tuple(value)
    return numbers(field.name, value)


def numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    """The value of a flag that is a list of numbers.

    Raises:
      UsageError: one of them is not.
    """
    try:
        return tuple(float(text) for text in texts)
    except ValueError:
        raise UsageError(
            f"{name} is {','.join(texts)!r}; it must be numbers separated by commas, "
            "for instance 0,0.3,0.5"
        ) from None


def given(flag_values: flags.FlagValues, *, but: Sequence[str] = ()) -> list[str]:
    """The flags that were given, as they can be given again; ``but`` those of these names."""
    return [
        flag.serialize().replace("\n", " ")
        for name in flag_values
        if (flag := flag_values[name]).present and name not in but
    ]
