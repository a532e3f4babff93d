"""A network that is scored and ranked once, and pruned at any sparsity."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.compaction.dying import Positions
from bbo.pruning.criteria import Criterion, norm_of, scores
from bbo.pruning.masking import apply_masks, masks
from bbo.pruning.ranking import drop_counts, kept_fraction, ranks
from bbo.pruning.units import Units, channel_masks, describe, scored_by
from bbo.settings.catalog import MEANINGS
from bbo.types import Array, Masks, Params, UsageError, require, require_one_of

Norms = Callable[[str], str | Sequence[str]]
"""From a kernel's name to that of the norm behind it, see ``masking.masks``."""


class Pruned(NamedTuple):
    """A network at one sparsity."""

    params: Params
    """What is dropped is zero."""
    masks: Masks
    kept: dict[str, Array]
    """Shares: ``units_kept``, ``params_kept`` and ``macs_kept``."""


class Pruner(NamedTuple):
    """Scores and ranks of a network; one compiled program serves every sparsity."""

    params: Params
    scores: dict[str, Array]
    ranks: dict[str, Array]
    scope: str
    meaning: str
    norm: Norms
    units: Mapping[str, Positions] | None = None
    """Of whole channels: where each has its positions, by the name of their scores."""

    def at(
        self, sparsity: float | Array, *, round_to: int = 1, macs: Mapping[str, int] | None = None
    ) -> Pruned:
        """The network with the share ``sparsity`` of the units of lowest rank set to zero.

        Args:
          sparsity: in [0, 1], and may be traced; counts are rounded down, and ties stay.
          round_to: keep a multiple of so many filters of each layer, rounded up, where there are
            so many.
          macs: multiply-adds by kernel name, for ``macs_kept``.

        Raises:
          UsageError: an argument out of range.
        """
        whole = self.scope != "global" and all(x.ndim == 1 for x in self.scores.values())
        allowed = ">= 1" if whole else "1, except for filters that compete in their layer"
        require(round_to == 1 or (whole and round_to > 1), "round_to", round_to, allowed)
        counts = {
            name: _rounded(len(self.scores[name]), count, round_to)
            for name, count in drop_counts(self.scores, sparsity, scope=self.scope).items()
        }
        return self.dropping(counts, macs=macs)

    def dropping(
        self, counts: Mapping[str, int | Array], *, macs: Mapping[str, int] | None = None
    ) -> Pruned:
        """The same with so many units set to zero of each that has scores; ties stay."""
        drop = {name: jnp.asarray(counts[name], jnp.int32) for name in self.scores}
        how = {"meaning": self.meaning, "norm": self.norm, "macs": tuple((macs or {}).items())}
        return _pruned(self.params, self.ranks, drop, self.units, **how)

    def masks(self, sparsity: float | Array) -> Masks:
        """What is kept, True, as a tree like the parameters; see ``masking.masks``."""
        return self.at(sparsity).masks

    def prune(self, sparsity: float | Array) -> Params:
        """The parameters, what is dropped set to zero."""
        return self.at(sparsity).params

    def kept(self, sparsity: float, macs: Mapping[str, int] | None = None) -> dict[str, float]:
        """Shares ``units_kept``, ``params_kept`` and, of ``macs`` by kernel, ``macs_kept``."""
        return {name: float(share) for name, share in self.at(sparsity, macs=macs).kept.items()}


def prepare(
    params: Params,
    *,
    criterion: str | Criterion | Mapping[str, Array] = "l2",
    granularity: str = "filter",
    scope: str | None = None,
    meaning: str = "clean",
    norm: Norms = norm_of,
    channels: Channels | None = None,
) -> Pruner:
    """Scores and ranks a network, to be pruned at any sparsity.

    With ``channels``, the description of a network in any layout, whole channels are pruned: all
    filters that put them out, with their biases and norms, so that ``compaction.compact`` can
    remove them. Else kernels are ``[..., in, out]``, filters are pruned layer by layer, and what
    dies with them is told by names.

    Args:
      params: the network; what ``channels`` describe.
      criterion: by name, or a function, see ``criteria.scores``; or scores made otherwise, for
        instance of some parameters only (``on``) or with gradients: by ``criteria.scores``, with
        ``channels`` by ``units.channel_scores``.
      granularity: ``weight``, ``kernel`` or ``filter``.
      scope: what competes, see ``ranking.ranks``; with ``channels`` it is ``group`` or ``global``.
        None: ``group`` with ``channels``, else ``local``.
      meaning: of a dropped unit, see ``masking.masks``.
      norm: from a kernel's name to that of the norm behind it, see ``masking.masks``.
      channels: from ``compaction.find_channels``.

    Raises:
      UsageError: a value out of range, a parameter that is no array, a scope of groups without
        channels, or none to remove.

    >>> params = {"conv": {"kernel": jnp.array([3.0, 1.0, 2.0, 4.0]).reshape(1, 1, 1, 4)}}
    >>> pruner = prepare(params, criterion="l1")
    >>> pruner.prune(0.5)["conv"]["kernel"].ravel().tolist()
    [3.0, 0.0, 0.0, 4.0]
    """
    for name, leaf in trees.flatten(params).items():
        trees.require_array(name, leaf, "pruned")
    if channels is not None:
        require(granularity == "filter", "granularity", granularity, "'filter' with channels")
        scored, described = scored_by(criterion, params, describe(channels))
        how = {"scope": scope or "group", "meaning": meaning}
        return prepare_channels(params, described.units, scored, **how)
    if scope == "group":
        raise UsageError(
            "scope 'group' needs channels: find_channels(...), or of parameters alone "
            "find_channels(...).within('params')"
        )
    scored = dict(
        criterion
        if isinstance(criterion, Mapping)
        else scores(params, criterion=criterion, granularity=granularity)
    )
    _check_scores(scored, params)
    ranked = _ranks(scored, scope=scope or "local")
    return Pruner(params, scored, ranked, scope or "local", meaning, norm)


def _check_scores(scored: Mapping[str, Array], params: Params) -> None:
    """Raises UsageError unless there are some, each of a parameter, and one for each unit."""
    leaves = trees.flatten(params)
    if not scored:
        raise UsageError("there are no scores; make them by pruning.scores")
    for name, given in scored.items():
        if name not in leaves:
            raise UsageError(
                f"there are scores of {name!r}, which is no parameter; make them by pruning.scores"
            )
        trees.require_floating(name, leaves[name], "pruned")
        shape = np.shape(leaves[name])
        allowed = {shape[-1:], shape[-2:], shape} - {()}
        told = " or ".join(map(str, sorted(allowed, key=len))) or "of an array that has filters"
        require(np.shape(given) in allowed, f"the shape of scores of {name}", np.shape(given), told)


def prepare_channels(
    params: Params,
    units: Mapping[str, Units],
    scored: Mapping[str, Array],
    *,
    scope: str = "group",
    meaning: str = "clean",
) -> Pruner:
    """Ranks whole channels, to be pruned at any sparsity; ``prepare`` does so by default.

    Args:
      params: the network.
      units: its channels, from ``units.describe``.
      scored: [channels] by their names, from ``units.channel_scores``.
      scope: ``group`` or ``global``.
      meaning: of a dropped channel, see ``masking.masks``.

    Raises:
      UsageError: a value out of range.
    """
    require_one_of(("group", "global"), "scope", scope)
    require_one_of(MEANINGS, "meaning", meaning)
    positions = {
        name: units[name].dying if meaning == "clean" else units[name].kernels for name in scored
    }
    ranked = _ranks(dict(scored), scope=scope)
    return Pruner(params, dict(scored), ranked, scope, meaning, norm_of, positions)


def prune(params: Params, sparsity: float | Array, **options: Any) -> Params:
    """The parameters with the share ``sparsity`` of their units set to zero.

    Args:
      params: the network.
      sparsity: in [0, 1]; may be traced.
      **options: see ``prepare``, which serves better where several sparsities are wanted.

    >>> params = {"conv": {"kernel": jnp.array([3.0, 1.0, 2.0, 4.0]).reshape(1, 1, 1, 4)}}
    >>> prune(params, 0.25)["conv"]["kernel"].ravel().tolist()
    [3.0, 0.0, 2.0, 4.0]
    """
    return prepare(params, **options).prune(sparsity)


_ranks = jax.jit(ranks, static_argnames="scope")


@functools.partial(jax.jit, static_argnames=("meaning", "norm", "macs"))
def _pruned(
    params: Params,
    ranked: dict[str, Array],
    counts: dict[str, Array],
    units: Mapping[str, Positions] | None,
    *,
    meaning: str,
    norm: Norms,
    macs: tuple[tuple[str, int], ...],
) -> Pruned:
    if units is None:
        kept = masks(params, ranked, counts, meaning=meaning, norm=norm)
    else:
        keep = {name: rank >= counts[name] for name, rank in ranked.items()}
        kept = channel_masks(params, units, keep)
    shares = {"units_kept": kept_fraction(ranked, counts)} | kept_costs(params, kept, dict(macs))
    return Pruned(apply_masks(params, kept), kept, shares)


def _rounded(total: int, dropped: int, round_to: int) -> int:
    """How many to drop so that a multiple is kept, or all.

    >>> _rounded(64, 32, 1), _rounded(64, 30, 8), _rounded(10, 9, 8), _rounded(6, 3, 8)
    (32, 24, 2, 0)
    """
    if round_to == 1:
        return dropped
    kept = -(-(total - dropped) // round_to) * round_to
    return max(0, total - kept)


def kept_costs(params: Params, masks: Masks, macs: Mapping[str, int]) -> dict[str, Array]:
    """Fractions ``params_kept`` and, if ``macs`` are given, ``macs_kept`` of a masked network.

    A multiply-add counts as kept if its weight is; what a removed filter spares the next layer
    is not counted here.
    """
    sizes = {name: jnp.size(leaf) for name, leaf in trees.flatten(params).items()}
    shares = {
        name: jnp.mean(keep.astype(jnp.float32)) for name, keep in trees.flatten(masks).items()
    }
    kept = {"params_kept": _weighted(shares, sizes)}
    return kept | ({"macs_kept": _weighted(shares, macs)} if macs else {})


def _weighted(shares: Mapping[str, Array], costs: Mapping[str, int]) -> Array:
    """Mean of the shares, weighted by costs whose sum may exceed 32 bits."""
    total = sum(costs.values())
    return sum((shares[name] * (cost / total) for name, cost in costs.items()), jnp.zeros(()))
