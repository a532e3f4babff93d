"""Which parameters of a configured network are perturbed and pruned."""

import jax

from bbo import pruning, trees
from bbo.noise.configured import create_regulariser
from bbo.settings.catalog import MODELS, parse_model
from bbo.settings.config import ExperimentConfig
from bbo.types import Params, UsageError


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


def check_selections(config: ExperimentConfig, params: Params) -> None:
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
    noise = create_regulariser(config.noise)
    if noise.weights:
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
