"""Settings survive JSON, refuse what does not exist, and say what the paper says."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

import experiments
from bbo.settings.config import ExperimentConfig, from_json, override, sections, to_json
from bbo.types import UsageError
from experiments.presets import PRESETS

FIELDS = [
    (name, field)
    for name, kind in sections(ExperimentConfig).items()
    for field in dataclasses.fields(kind)
]


def changed_value(field: dataclasses.Field) -> Any:
    """Another value than the default, from the field alone."""
    default, metadata = field.default, field.metadata
    if field.name == "model":
        return "wrn16_4"
    if field.name == "draw_bits":
        return 8
    if field.name == "select":
        return "last"
    if field.name in ("granularity", "recovery"):  # one alone is what prune_iterations allows
        return {"granularity": ("kernel",), "recovery": ("batch_norm",)}[field.name]
    if metadata["one_of"]:
        return next(value for value in metadata["one_of"] if value != default)
    if metadata["some_of"]:
        return tuple(reversed(metadata["some_of"]))
    return {
        bool: lambda: not default,
        int: lambda: default + 3,
        float: lambda: 0.3125,
        str: lambda: default + "x",
        tuple: lambda: (0.125, 0.875),
    }[type(default)]()


CHANGES = {field.name: changed_value(field) for _, field in FIELDS}
ALL_CHANGED = override(ExperimentConfig(), **CHANGES)


def test_every_field_of_the_changed_configuration_differs():
    for section, field in FIELDS:
        value = getattr(getattr(ALL_CHANGED, section), field.name)
        assert value == CHANGES[field.name] != field.default


@pytest.mark.parametrize("config", [*PRESETS.values(), ExperimentConfig(), ALL_CHANGED])
def test_json_round_trip_is_exact(config):
    text = json.dumps(to_json(config), allow_nan=False)
    again = from_json(json.loads(text))
    assert again == config and hash(again) == hash(config)
    assert json.dumps(to_json(again)) == text


def test_settings_absent_from_json_take_their_defaults():
    assert from_json({}) == ExperimentConfig()
    assert from_json({"noise": {"q": 2.0}}) == override(ExperimentConfig(), q=2.0)


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"nois": {}}, ("section is 'nois'", "data, model, noise, optimizer, train, pruning")),
        ({"noise": {"p": 1}}, ("setting of noise is 'p'", "noise, rate, q, target_fraction")),
        ({"noise": {"q": -1.0}}, ("q is -1.0", "in (0, 8]")),
        ({"noise": {"noise": "foo"}}, ("noise is 'foo'", "one of none, batch_bridgeout")),
        ({"pruning": {"sparsities": [0.5, 0.1]}}, ("sparsities is (0.5, 0.1)", "increasing")),
    ],
)
def test_json_that_is_no_configuration_is_refused(record, parts):
    with pytest.raises(UsageError) as error:
        from_json(record)
    assert all(part in str(error.value) for part in parts)


def test_override_changes_the_named_settings_and_no_other():
    before = to_json(PRESETS["clean"])
    after = to_json(override(PRESETS["clean"], q=1.0, epochs=60, granularity=("filter",)))
    differing = {
        key: after[section][key]
        for section in before
        for key in before[section]
        if before[section][key] != after[section][key]
    }
    assert differing == {"q": 1.0, "epochs": 60, "granularity": ["filter"]}
    assert to_json(PRESETS["clean"]) == before
    assert override(PRESETS["clean"]) == PRESETS["clean"]


def test_override_refuses_what_does_not_exist_or_fit():
    with pytest.raises(UsageError, match="unknown setting: epoch, noise_rate"):
        override(ExperimentConfig(), epoch=3, q=1.0, noise_rate=0.1)
    with pytest.raises(UsageError, match=r"q is 0\.0; it must be in \(0, 8\]"):
        override(ExperimentConfig(), q=0.0)
    with pytest.raises(UsageError, match="needs images of 32x32 pixels; digits gives 8x8"):
        override(ExperimentConfig(), model="vgg16")


def test_configurations_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig().noise.q = 1.0  # pyright: ignore


def test_field_names_are_unique_and_every_field_has_help():
    names = [field.name for _, field in FIELDS]
    assert len(set(names)) == len(names)
    assert not set(names) & {"preset", "workdir", "help"}
    for _, field in FIELDS:
        assert len(field.metadata["help"]) > 10 or field.metadata["one_of"], field.name
        assert not field.metadata["help"].endswith("."), field.name


def test_the_published_preset_is_the_papers_protocol():
    published = PRESETS["published"]
    facts = {
        # arXiv 2009.10893 and the authors' program.
        "data": {"dataset": "cifar10", "validation_fraction": 0.0, "augment": True},
        "model": {"model": "vgg16", "width": 1.0, "conv_bias": True, "norm_momentum": 0.9},
        "noise": {"noise": "batch_bridgeout", "rate": 0.3, "q": 1.5}
        | {"target_fraction": 0.75, "target_unit": "kernel", "noise_on": ""}
        | {"activation_target_fraction": 0.75},
        "optimizer": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        | {"schedule": "step", "decay_factor": 0.2, "reset_momentum": True, "label_smoothing": 0.0},
        "train": {"epochs": 230, "batch_size": 128, "dtype": "float32", "select": "best_test"},
        "pruning": {"criterion": "l2", "scope": "local", "meaning": "published", "prune_on": ""}
        | {"prune_norm_scales": True, "recovery": ["none"]},
    }
    record = to_json(published)
    for section, values in facts.items():
        assert {key: record[section][key] for key in values} == values
    # A BatchNorm momentum of 0.9 in torch's sense keeps a tenth.
    assert published.model.final_norm_momentum == 0.1
    assert [share * 230 for share in published.optimizer.milestones] == [60, 120, 160, 200]
    assert [round(10 * share) for share in published.pruning.sparsities] == list(range(10))
    assert sorted(published.pruning.granularity) == ["filter", "weight"]


def test_the_clean_preset_decides_nothing_on_the_test_set():
    clean = PRESETS["clean"]
    assert clean.train.select == "best_validation" and clean.data.validation_fraction == 0.1
    assert clean.pruning.meaning == "clean" and not clean.pruning.prune_norm_scales
    assert "batch_norm" in clean.pruning.recovery
    assert not clean.model.conv_bias and not clean.optimizer.reset_momentum
    assert all(preset.train.select != "best_test" for preset in (clean, PRESETS["digits"]))


@pytest.mark.parametrize("protocol", ["published", "clean"])
def test_each_experiment_of_the_paper_is_a_preset(protocol):
    found = {
        name.split("/")[1]: preset for name, preset in PRESETS.items() if f"{protocol}/" in name
    }
    curves = pathlib.Path(experiments.__file__).parent / "published"
    # The files of the paper's curves are named DATASET_NETWORK.csv.
    wanted = [path.stem.split("_", 1) for path in curves.glob("*.csv")]
    assert set(found) == {f"{model}_{dataset}" for dataset, model in wanted} and len(found) == 6
    for name, preset in found.items():
        model, dataset = name.rsplit("_", 1)
        assert preset == override(PRESETS[protocol], model=model, dataset=dataset)
        assert (preset.model.model, preset.data.dataset) == (model, dataset)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "retrain_epochs", "rate"])
def test_huge_numbers_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} is 1000000000000000000000000000000; it must be"):
        override(ExperimentConfig(), **{name: 10**30})
