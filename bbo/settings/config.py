"""Every setting of an experiment, validated as a whole, to and from JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bbo.settings.catalog import CRITERIA, MODELS, RECOVERIES, parse_model
from bbo.settings.noise_section import NoiseConfig
from bbo.settings.pruning_sections import IterationConfig, PruningConfig
from bbo.settings.sections import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from bbo.types import UsageError, require


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One run: train, prune, evaluate."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    noise: NoiseConfig = NoiseConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    pruning: PruningConfig = PruningConfig()
    iterations: IterationConfig = IterationConfig()

    def __post_init__(self):
        size = self.data.info.image_shape[0]
        least = MODELS[parse_model(self.model.model)[0]].least_pixels
        if size < least:
            raise UsageError(
                f"model {self.model.model} needs images of {least}x{least} pixels; "
                f"{self.data.dataset} gives {size}x{size}; take small_cnn or a resnet"
            )
        if self.train.select == "best_validation" and self.data.validation_fraction == 0:
            raise UsageError(
                "select is 'best_validation' but validation_fraction is 0; "
                "hold images out, or set select to 'last'"
            )
        if self.pruning.prune_norm_scales and self.pruning.meaning == "clean":
            raise UsageError(
                "prune_norm_scales belongs to meaning 'published'; "
                "a clean filter takes its own scale with it and no other"
            )
        scored = CRITERIA[self.pruning.criterion]
        if set(self.pruning.granularity) - set(scored):
            raise UsageError(
                f"criterion {self.pruning.criterion!r} scores whole {' and '.join(scored)}s; "
                f"set granularity to {','.join(scored)!r}"
            )
        self._check_dropping()
        if self.pruning.scope == "group" and self.pruning.granularity != ("filter",):
            raise UsageError("scope 'group' prunes whole filters; set granularity to 'filter'")
        if self.pruning.scope == "group" and self.pruning.meaning != "clean":
            raise UsageError("scope 'group' removes whole channels; set meaning to 'clean'")
        if self.iterations.prune_iterations > 1 and len(self.pruning.granularity) > 1:
            raise UsageError(
                "prune_iterations trains what is left of one pruning; set granularity to one of "
                + ", ".join(self.pruning.granularity)
            )
        layerwise = [name for name in self.pruning.recovery if RECOVERIES[name]]
        if self.iterations.prune_iterations > 1 and layerwise:
            raise UsageError(
                f"recovery {' and '.join(layerwise)} mends what was not trained since it "
                "was pruned; with prune_iterations set recovery to none, batch_norm or both"
            )

    def _check_dropping(self) -> None:
        """What nested_dropping needs, and its steps of ``removed_shares``."""
        if self.noise.noise == "nested_dropping" and self.pruning.criterion in ("taylor", "random"):
            raise UsageError(
                "nested_dropping drops what is pruned first at each step, for which criterion "
                f"{self.pruning.criterion!r} is no order; take l2, l1, norm_scale or "
                "geometric_median"
            )
        if not self.noise.removes:
            return
        if self.pruning.meaning != "clean":
            raise UsageError("removed_shares removes whole channels; set meaning to 'clean'")
        if self.pruning.scope == "global":
            raise UsageError(
                "removed_shares needs layers that keep their size; set scope to local, layer or "
                "group, or removed_shares to nothing"
            )
        if self.train.steps_per_call > 1:
            raise UsageError(
                "removed_shares trains networks of several sizes, each with a program of its own; "
                "set steps_per_call to 1"
            )


def sections(config: type | ExperimentConfig) -> dict[str, type]:
    """The sections of a configuration by name, in order."""
    return {field.name: field.type for field in dataclasses.fields(config)}  # pyright: ignore


def to_json(config: ExperimentConfig) -> dict[str, Any]:
    """Nested dicts of plain values; tuples become lists."""
    return {
        name: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in section.items()
        }
        for name, section in dataclasses.asdict(config).items()
    }


def from_json(record: Mapping[str, Any]) -> ExperimentConfig:
    """The inverse of ``to_json``; settings absent from the record take their defaults.

    Raises:
      UsageError: an unknown section or setting, or a value out of range; or no record at all.
    """
    made = {}
    known = sections(ExperimentConfig)
    require(isinstance(record, Mapping), "the configuration", record, "a record of sections")
    for name, values in record.items():
        require(name in known, "section", name, "one of " + ", ".join(known))
        require(isinstance(values, Mapping), f"section {name}", values, "a record of settings")
        fields = [field.name for field in dataclasses.fields(known[name])]
        for key in values:
            require(key in fields, f"setting of {name}", key, "one of " + ", ".join(fields))
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        made[name] = known[name](**frozen)
    return ExperimentConfig(**made)


def override(config: ExperimentConfig, **settings: Any) -> ExperimentConfig:
    """A copy with some settings changed, named without their section.

    >>> override(ExperimentConfig(), q=1.0, epochs=60).noise.q
    1.0

    Raises:
      UsageError: an unknown setting, or a value out of range.
    """
    made, left = {}, dict(settings)
    for name in sections(config):
        section = getattr(config, name)
        fields = {field.name for field in dataclasses.fields(section)}
        own = {key: left.pop(key) for key in list(left) if key in fields}
        made[name] = dataclasses.replace(section, **own)
    if left:
        raise UsageError(f"unknown setting: {', '.join(left)}")
    return ExperimentConfig(**made)
