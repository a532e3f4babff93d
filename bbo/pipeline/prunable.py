"""Which parameters of a configured network are perturbed and pruned."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from bbo import pruning, trees
from bbo.compaction.channels import Channels, find_channels
from bbo.models.create import kept_channels
from bbo.noise.configured import create_regulariser
from bbo.noise.dropout import Prune
from bbo.pruning.narrowing import narrow
from bbo.pruning.pruner import Pruner
from bbo.pruning.units import by_kernel, describe, tie_scores
from bbo.settings.catalog import MODELS, parse_model
from bbo.settings.config import ExperimentConfig
from bbo.types import Array, Params, PyTree, UsageError


def prunable(config: ExperimentConfig, granularity: str) -> trees.Selector:
    """Which parameters are ranked and pruned.

    ``prune_norm_scales`` adds, to filters, the norm scales that the authors' program catches by
    their names: all of a VGG's, and those behind the projection shortcuts of a ResNet.
    """
    kernels = config.pruning.prune_on or pruning.convolutions
    quirk = MODELS[parse_model(config.model.model)[0]].quirky_scales
    if not (config.pruning.prune_norm_scales and granularity == "filter" and quirk):
        return kernels
    scales, is_kernel = trees.compile_pattern(quirk), trees.matcher(kernels)
    return lambda name, leaf: is_kernel(name, leaf) or scales.search(name) is not None


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
        ranks = pruner.ranks
        counts = pruning.drop_counts(pruner.scores, share, scope=pruner.scope)
        if pruner.scope == "group":
            units = describe(_channels(config, model).within("params")).units
            ranks = by_kernel(units, ranks)
            counts = {
                name: count for unit, count in counts.items() for name, _ in units[unit].kernels
            }
        small = narrow(
            pruned,
            _channels(config, model).groups,
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
        channels = _channels(config, model).within("params")
        units = describe(channels, lambda name, _: name in scored).units
        scored = tie_scores(scored, units, criterion=pruned.criterion)
    how = {"scope": pruned.scope, "meaning": pruned.meaning, "channels": channels}
    return pruning.prepare(held, criterion=scored, **how)


def _channels(config: ExperimentConfig, model: nn.Module) -> Channels:
    images = jax.ShapeDtypeStruct((1, *config.data.info.image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return find_channels(model.apply, variables, images)


def check_selections(config: ExperimentConfig, model: nn.Module, params: Params) -> None:
    """Tries the name patterns, the regulariser and the criterion on shapes alone.

    Raises:
      UsageError: a pattern matches nothing, or matches what cannot be perturbed or scored.
    """
    patterns = {"noise_on": config.noise.noise_on, "prune_on": config.pruning.prune_on}
    for setting, pattern in patterns.items():
        try:
            trees.select(params, pattern)  # an empty one matches everything
        except UsageError as error:
            raise UsageError(f"{setting}: {error}") from None
    noise = create_regulariser(config.noise, prune=pruned_at(config, model))
    if noise.perturbs_weights:
        jax.eval_shape(noise.weights, jax.random.key(0), params)
    for granularity in config.pruning.granularity:
        jax.eval_shape(
            lambda params, unit=granularity: pruning.scores(
                params,
                criterion=config.pruning.criterion,
                granularity=unit,
                on=prunable(config, unit),
                gradients=params,
                rng=jax.random.key(0),
            ),
            params,
        )
