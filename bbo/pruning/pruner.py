"""A network that is scored and ranked once, and pruned at any sparsity."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.compaction.channels import Group
from bbo.pruning.criteria import Criterion, norm_of, scores
from bbo.pruning.groups import norms_of, tie_scores
from bbo.pruning.masking import apply_masks, masks
from bbo.pruning.ranking import drop_counts, kept_fraction, ranks
from bbo.types import Array, Masks, Params, UsageError, require

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
            name: jnp.asarray(_rounded(len(self.scores[name]), count, round_to), jnp.int32)
            for name, count in drop_counts(self.scores, sparsity, scope=self.scope).items()
        }
        how = {"meaning": self.meaning, "norm": self.norm}
        return _pruned(self.params, self.ranks, counts, macs=tuple((macs or {}).items()), **how)

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
    scope: str = "local",
    meaning: str = "clean",
    norm: Norms = norm_of,
    groups: Sequence[Group] | None = None,
) -> Pruner:
    """Scores and ranks a network, to be pruned at any sparsity.

    Args:
      params: the network.
      criterion: by name, or a function, see ``criteria.scores``; or scores made otherwise, for
        instance of some parameters only (``on``) or with gradients.
      granularity: ``weight``, ``kernel`` or ``filter``.
      scope: what competes, see ``ranking.ranks``.
      meaning: of a dropped unit, see ``masking.masks``.
      norm: from a kernel's name to that of the norm behind it, see ``masking.masks``.
      groups: of the parameters, for the scope ``group``, see ``groups.groups_of``: whole groups
        live and die, with all their norms. Scores that are given must be tied already.

    Raises:
      UsageError: a value out of range, a parameter that is no array, or a scope of groups without
        them.

    >>> params = {"conv": {"kernel": jnp.array([3.0, 1.0, 2.0, 4.0]).reshape(1, 1, 1, 4)}}
    >>> pruner = prepare(params, criterion="l1")
    >>> pruner.prune(0.5)["conv"]["kernel"].ravel().tolist()
    [3.0, 0.0, 0.0, 4.0]
    """
    if scope == "group" and groups is None:
        raise UsageError(
            "scope 'group' needs groups: groups_of(find_channels(...).groups, 'params')"
        )
    if scope != "group" and groups is not None:
        raise UsageError(f"groups are given, but scope is {scope!r}; set it to 'group'")
    for name, leaf in trees.flatten(params).items():
        trees.require_array(name, leaf, "pruned")
    if isinstance(criterion, Mapping):
        scored = dict(criterion)
    else:
        scored = scores(params, criterion=criterion, granularity=granularity)
        if groups is not None:
            name = criterion if isinstance(criterion, str) else ""
            scored = tie_scores(scored, groups, criterion=name)
    ranked = _ranks(scored, scope=scope)
    behind = norm if groups is None else norms_of(groups)
    return Pruner(params, scored, ranked, scope, meaning, behind)


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
    *,
    meaning: str,
    norm: Norms,
    macs: tuple[tuple[str, int], ...],
) -> Pruned:
    kept = masks(params, ranked, counts, meaning=meaning, norm=norm)
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
    sizes = {name: leaf.size for name, leaf in trees.flatten(params).items()}
    shares = {
        name: jnp.mean(keep.astype(jnp.float32)) for name, keep in trees.flatten(masks).items()
    }
    kept = {"params_kept": _weighted(shares, sizes)}
    return kept | ({"macs_kept": _weighted(shares, macs)} if macs else {})


def _weighted(shares: Mapping[str, Array], costs: Mapping[str, int]) -> Array:
    """Mean of the shares, weighted by costs whose sum may exceed 32 bits."""
    total = sum(costs.values())
    return sum((shares[name] * (cost / total) for name, cost in costs.items()), jnp.zeros(()))
