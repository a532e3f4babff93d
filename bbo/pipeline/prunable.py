"""What of a configured network is pruned, in which order; and its settings tried on shapes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bbo import pruning, trees
from bbo.compaction.channels import Channels, find_channels
from bbo.compaction.tracing.updates import OF_RESULT
from bbo.models.create import create_model, kept_channels
from bbo.noise.configured import create_regulariser
from bbo.noise.dropout import Prune
from bbo.pruning.narrowing import narrow
from bbo.pruning.pruner import Pruner
from bbo.pruning.units import by_kernel, describe, tie_scores
from bbo.settings.catalog import MODELS, parse_model
from bbo.settings.config import ExperimentConfig
from bbo.settings.sections import ModelConfig
from bbo.types import Array, Params, PyTree, UsageError


def prunable(config: ExperimentConfig, granularity: str) -> Callable[[str, Array], bool]:
    """Which parameters are ranked and pruned: what ``prune_on`` matches, but for ``left_out``.

    ``prune_norm_scales`` adds, to filters, the norm scales that the authors' program catches by
    their names: all of a VGG's, and those behind the projection shortcuts of a ResNet.
    """
    kernels = trees.matcher(config.pruning.prune_on or pruning.convolutions)
    if granularity != "filter":
        return kernels
    results = _of_the_result(config) if config.pruning.prune_on else frozenset()
    quirk = MODELS[parse_model(config.model.model)[0]].quirky_scales
    scales = trees.compile_pattern(quirk or "$^") if config.pruning.prune_norm_scales else None

    def is_pruned(name: str, leaf: Array) -> bool:
        also = scales is not None and scales.search(name) is not None
        return also or (kernels(name, leaf) and name not in results)

    return is_pruned


def left_out(config: ExperimentConfig, params: Params) -> list[str]:
    """What ``prune_on`` matches and filters leave out: a filter fewer would be a class fewer."""
    pattern, units = config.pruning.prune_on, config.pruning.granularity
    if not pattern or "filter" not in units:
        return []
    results, is_meant = _of_the_result(config), prunable(config, "filter")
    matches = trees.matcher(pattern)
    return [
        name
        for name, leaf in trees.flatten(params).items()
        if name in results and matches(name, leaf) and not is_meant(name, leaf)
    ]


def _of_the_result(config: ExperimentConfig) -> frozenset[str]:
    """The parameters that put the logits out."""
    return frozenset(
        name
        for group in _channels_of_all(config).groups
        if group.fixed == OF_RESULT
        for name, _ in group.writers
    )


def pruned_at(config: ExperimentConfig, model: nn.Module) -> Prune:
    """``(params, share) -> params`` without that share of the filters, as the run prunes them.

    Of nested dropping: what is dropped in training is what is removed later, whole channel groups
    if the scope is that. Compiled with what uses it; nothing is traced before.
    """

    def prune(params: Params, share: float | Array) -> Params:
        return pruning.apply_masks(params, _pruner(config, model, params).masks(share))

    return prune


def removed_at(
    config: ExperimentConfig, model: nn.Module, share: float, build: Callable[..., nn.Module]
) -> Callable[[PyTree, Array], Array]:
    """``(variables, images) -> logits`` in training mode of what ``pruned_at`` leaves, made narrow.

    The same function, as far as whole channels go: see ``narrowing.narrow``.

    Args:
      config: of the run.
      model: its network.
      share: of the filters, in (0, 1).
      build: ``build(kept=...)`` is a network of so many channels, see ``create.kept_channels``.
    """

    def forward(variables: PyTree, images: Array) -> Array:
        pruner = _pruner(config, model, variables["params"])
        pruned = variables | {
            "params": pruning.apply_masks(variables["params"], pruner.masks(share))
        }
        ranks, channels = pruner.ranks, _channels(model, config.data.info.image_shape)
        counts = pruning.drop_counts(pruner.scores, share, scope=pruner.scope)
        if pruner.scope == "group":
            units = describe(channels.within("params")).units
            ranks = by_kernel(units, ranks)
            counts = {
                name: count for unit, count in counts.items() for name, _ in units[unit].kernels
            }
        small = narrow(
            pruned,
            channels.groups,
            {f"params/{name}": rank for name, rank in ranks.items()},
            {f"params/{name}": count for name, count in counts.items()},
            tied=pruner.scope == "group",
        )
        network = build(kept=kept_channels(small["params"]))
        return network.apply(small, images, train=True, mutable=["batch_stats"])[0]

    return forward


def _pruner(config: ExperimentConfig, model: nn.Module, params: Params) -> Pruner:
    """Of filters, by the settings; no derivative goes through the order."""
    pruned, held, on = config.pruning, jax.lax.stop_gradient(params), prunable(config, "filter")
    scored = pruning.scores(held, criterion=pruned.criterion, granularity="filter", on=on)
    channels = None
    if pruned.scope == "group":
        channels = _channels(model, config.data.info.image_shape).within("params")
        units = describe(channels, lambda name, _: name in scored).units
        scored = tie_scores(scored, units, criterion=pruned.criterion)
    return pruner_of(config, held, scored, channels=channels)


def pruner_of(
    config: ExperimentConfig,
    params: Params,
    scored: Mapping[str, Array],
    *,
    granularity: str = "filter",
    channels: Channels | None = None,
) -> Pruner:
    """Of a network that has been scored; with the channels of its parameters for scope group."""
    names = trees.flatten(params).keys()
    return pruning.prepare(
        params,
        criterion=scored,
        granularity=granularity,
        scope=config.pruning.scope,
        meaning=config.pruning.meaning,
        norm=OwnNorms(frozenset(name for name in names if name.endswith("_norm/scale"))),
        channels=channels,
    )


class OwnNorms(NamedTuple):
    """The norm that alone reads what a kernel puts out, by ``pruning.norm_of``, or ``()``."""

    scales: frozenset[str]
    """Those that there are."""

    def __call__(self, kernel: str) -> str | tuple[()]:
        """The name of the norm."""
        norm = pruning.norm_of(kernel)
        return norm if f"{norm}/scale" in self.scales else ()


def _channels(model: nn.Module, image_shape: Sequence[int]) -> Channels:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return find_channels(model.apply, variables, images)


def _channels_of_all(config: ExperimentConfig) -> Channels:
    """Of the parameters of the network before anything is removed."""
    info = config.data.info
    return _found(config.model, info.num_classes, tuple(info.image_shape))


@functools.lru_cache(maxsize=4)
def _found(config: ModelConfig, num_classes: int, image_shape: tuple[int, ...]) -> Channels:
    return _channels(create_model(config, num_classes=num_classes), image_shape).within("params")


def check_selections(config: ExperimentConfig, model: nn.Module, params: Params) -> None:
    """Tries the name patterns, the regulariser and all of pruning on shapes alone.

    Raises:
      UsageError: a pattern matches nothing, or matches what cannot be perturbed, scored or pruned.
    """
    patterns = {"noise_on": config.noise.noise_on, "prune_on": config.pruning.prune_on}
    for setting, pattern in patterns.items():
        try:
            trees.select(params, pattern)  # an empty one matches everything
        except UsageError as error:
            raise UsageError(f"{setting}: {error}") from None
    for granularity in config.pruning.granularity:
        _check_pruning(config, params, granularity)
    if config.pruning.scope == "group":
        _check_groups(config, params)
    noise = create_regulariser(config.noise, prune=pruned_at(config, model))
    if noise.perturbs_weights:
        jax.eval_shape(noise.weights, jax.random.key(0), params)
    jax.eval_shape(noise.penalty, params)


def _check_pruning(config: ExperimentConfig, params: Params, granularity: str) -> None:
    """Tries to score and to prune; whole channels are known by their description."""
    on = prunable(config, granularity)
    if not any(on(name, leaf) for name, leaf in trees.flatten(params).items()):
        raise UsageError(
            f"prune_on is {config.pruning.prune_on!r}, and filters of "
            f"{', '.join(left_out(config, params))} are classes: pruning them would leave classes "
            "out; match other kernels too, or set granularity to weight"
        )

    def kept(params: Params) -> PyTree:
        scored = pruning.scores(
            params,
            criterion=config.pruning.criterion,
            granularity=granularity,
            on=on,
            gradients=params,
            rng=jax.random.key(0),
        )
        if config.pruning.scope == "group":
            return scored
        pruner = pruner_of(config, params, scored, granularity=granularity)
        counts = pruning.drop_counts(pruner.scores, 0.5, scope=pruner.scope)
        how = {"meaning": pruner.meaning, "norm": pruner.norm}
        return pruning.masks(params, pruner.ranks, counts, **how)

    jax.eval_shape(kept, params)


def _check_groups(config: ExperimentConfig, params: Params) -> None:
    """Checks that there is a channel of which all kernels that put it out are selected."""
    leaves, on = trees.flatten(params), prunable(config, "filter")
    reasons = {}
    for group in _channels_of_all(config).removable:
        kernels = group.kernels(leaves)
        others = [name for name in kernels if not on(name, leaves[name])]
        if kernels and not others and group.size > 1:
            return
        if len(others) < len(kernels):
            why = "is not selected" if len(others) == 1 else "are not selected"
            reasons[group.name] = f"{', '.join(others)} {why}" if others else "it is the only one"
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    pattern = config.pruning.prune_on
    of_these = f" of what prune_on {pattern!r} selects" if pattern else ""
    raise UsageError(
        f"scope is 'group', and no channel{of_these} can be removed ({told}); select all kernels "
        "that put a channel out, or set scope to local"
    )
