"""Whole channels as what is scored and pruned, by the description of a network in any layout."""

import math
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels, Group
from bbo.compaction.dying import Positions, dying_members
from bbo.compaction.kernels import described_leaf, find_kernels
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.pruning.criteria import FUNCTIONS, Criterion, Unit
from bbo.settings.catalog import CRITERIA
from bbo.trees import wide
from bbo.types import Array, Masks, Params, Rng, UsageError, require, require_one_of


class Units(NamedTuple):
    """Channels of one group: each lives or dies as a whole."""

    kernels: Positions
    """The filters that put each channel out: it is scored by them."""
    dying: Positions
    """All that is zero where a channel is dead: filters, biases, norms."""

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(next(iter(self.kernels.values())))


class Whole(NamedTuple):
    """Channels of one group, of which none can be removed."""

    size: int
    reason: str


class Described(NamedTuple):
    """What a description says of pruning."""

    units: dict[str, Units]
    """By the name of a kernel that puts the channels out."""
    staying: dict[str, Whole]
    """All other groups that kernels put out, by such a name."""

    def none_left(self) -> UsageError:
        """The error that says that nothing can be removed, and why."""
        reasons = "; ".join(f"{name}: {whole.reason}" for name, whole in self.staying.items())
        return UsageError(f"no channel can be removed ({reasons or 'there are no kernels'})")


def describe(channels: Channels, on: trees.Selector | None = None) -> Described:
    """The channels that can be pruned.

    Args:
      channels: of a function, from ``compaction.find_channels``; ``channels.within("params")`` for
        the parameters alone.
      on: which kernels; a channel is pruned if all that put it out are meant. None: all.

    Raises:
      UsageError: ``on`` matches no kernel.
    """
    kernels = find_kernels(channels)
    whole = dict(zip(channels.traced.names, channels.traced.arrays.avals, strict=False))
    avals = {name: whole[channels.part + name] for name in kernels}
    meant = trees.flatten(trees.select(avals, on)) if on is not None else dict.fromkeys(avals, True)
    units, staying = {}, {}
    for group, dying in zip(channels.groups, dying_members(channels), strict=True):
        own = {
            (name, axis): positions
            for (name, axis), positions in group.members.items()
            if name in kernels and axis in kernels[name].outputs
        } or _tables(channels, group, kernels)
        if not own:
            continue
        names = {name for name, _ in own}
        name = group.name if group.name in names else max(own, key=lambda member: member[1])[0]
        name = _unused(name, units.keys() | staying.keys())
        left_out = [kernel for kernel, _ in own if not meant.get(kernel, on is None)]
        if left_out or not dying:
            staying[name] = Whole(group.size, _reason(group, left_out))
        else:
            units[name] = Units(own, dying)
    return Described(units, staying)


def _tables(channels: Channels, group: Group, kernels: Collection[str]) -> Positions:
    """Arrays of several axes that put channels out without being multiplied, as embeddings.

    Axes of length one are none: a norm's scale may be ``[1, 1, 1, channels]``.
    """
    if group.size == 1:
        return {}
    avals = dict(zip(channels.traced.names, channels.traced.arrays.avals, strict=False))

    def is_table(name: str, axis: int) -> bool:
        shape = shape_of(avals[channels.part + name])
        return name not in kernels and math.prod(shape[:axis]) > 1

    return {member: group.members[member] for member in group.writers if is_table(*member)}


def _reason(group: Group, left_out: list[str]) -> str:
    if group.fixed:
        return group.fixed
    if group.size == 1:
        return "it is the only one"
    if left_out:
        return f"{', '.join(left_out)} put it out, and are not selected"
    return "it is not dead when all of it is zero"


def _unused(name: str, taken: set[str]) -> str:
    """The name, or the first of ``name#2``, ``name#3`` ... that is not taken."""
    numbered = (f"{name}#{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(new for new in numbered if new not in taken)


def channel_scores(
    params: Params,
    units: Mapping[str, Units],
    *,
    criterion: str | Criterion = "l2",
    gradients: Params | None = None,
    rng: Rng = None,
) -> dict[str, Array]:
    """Importance of every channel: of all filters that put it out, together.

    For ``l2`` the root of the sum of squares, which is the norm of them as one; else the sum.

    Args:
      params: what the description is of.
      units: from ``describe``.
      criterion: one of ``catalog.CRITERIA`` but ``norm_scale``, or a function, see
        ``criteria.scores``; filters are on the last axis of what it is given, in any layout.
      gradients: of the loss, like ``params``; for ``taylor``.
      rng: for ``random``.

    Returns:
      [channels] by name.

    Raises:
      UsageError: a criterion that needs what is not there, or parameters of another network.
    """
    if isinstance(criterion, str):
        require_one_of(CRITERIA, "criterion", criterion)
    if criterion == "norm_scale":
        raise UsageError(
            "criterion 'norm_scale' goes by names; with channels give a function or scores"
        )
    function = FUNCTIONS[criterion] if isinstance(criterion, str) else criterion
    require(callable(function), "criterion", criterion, "a name or a function")
    leaves = trees.flatten(params)
    slopes = trees.flatten(gradients) if gradients is not None else {}

    def of_kernel(name: str, axis: int) -> Array:
        def last(w: Array) -> Array:
            return jnp.moveaxis(wide(w), axis, -1)

        leaf = described_leaf(leaves, name)
        trees.require_floating(name, leaf, "pruned")
        w = last(leaf)
        key = None if rng is None else jax.random.fold_in(rng, zlib.crc32(name.encode()))
        slope = last(slopes[name]) if name in slopes else None
        found = function(Unit(name, w, tuple(range(w.ndim - 1)), slope, key, params))
        if np.shape(found) != w.shape[-1:]:
            raise UsageError(
                f"the criterion gives scores of shape {np.shape(found)} for {name}; they must be "
                f"{w.shape[-1:]}, one for each filter"
            )
        return found

    return _together(units, of_kernel, criterion)


def scored_by(
    criterion: str | Criterion | Mapping[str, Array], params: Params, described: Described
) -> tuple[dict[str, Array], Described]:
    """Scores of channels, and the description of those that have some.

    Args:
      criterion: see ``channel_scores``; or scores from there.
      params: the network.
      described: the same.

    Raises:
      UsageError: no channel can be removed; scores are of others, or not one for each channel.
    """
    units = described.units
    if not units:
        raise described.none_left()
    if not isinstance(criterion, Mapping):
        return channel_scores(params, units, criterion=criterion), described
    for name, given in criterion.items():
        if name not in units:
            raise UsageError(
                f"there are scores of {name}, but the channels are called {', '.join(units)}; make "
                "them by pruning.channel_scores"
            )
        require(
            np.shape(given) == (units[name].size,),
            f"the shape of scores of {name}",
            np.shape(given),
            f"{(units[name].size,)}, one for each channel",
        )
    unscored = {
        n: Whole(own.size, "it has no scores") for n, own in units.items() if n not in criterion
    }
    scored = {name: own for name, own in units.items() if name in criterion}
    if not scored:
        raise UsageError(f"there are no scores; give some of {', '.join(units)}")
    return dict(criterion), Described(scored, described.staying | unscored)


def tie_scores(
    scored: Mapping[str, Array], units: Mapping[str, Units], *, criterion: str | Criterion
) -> dict[str, Array]:
    """The same of scores of filters, [filters] by kernel, from ``criteria.scores``.

    Raises:
      UsageError: a kernel was not scored.
    """

    def of_kernel(name: str, axis: int) -> Array:
        del axis
        return described_leaf(scored, name)

    return _together(units, of_kernel, criterion)


def _together(
    units: Mapping[str, Units],
    of_kernel: Callable[[str, int], Array],
    criterion: str | Criterion,
) -> dict[str, Array]:
    power = 2 if criterion == "l2" else 1
    scored = {}
    for name, own in units.items():
        parts = [
            of_kernel(*member)[positions] ** power for member, positions in own.kernels.items()
        ]
        total = sum(jnp.sum(part, axis=1) for part in parts)
        scored[name] = total ** (1 / power)
    return scored


def by_kernel(units: Mapping[str, Units], ranked: Mapping[str, Array]) -> dict[str, Array]:
    """Ranks of channels as those of the filters of each kernel: int [filters] by its name."""
    found = {}
    for unit, rank in ranked.items():
        for (name, _), positions in units[unit].kernels.items():
            filters = found.get(name, jnp.zeros(positions.size, rank.dtype))
            found[name] = filters.at[positions].set(rank[:, None])
    return found


def channel_masks(
    params: Params,
    units: Mapping[str, Positions],
    keep: Mapping[str, Array],
) -> Masks:
    """What is kept of the parameters, as ``masking.masks`` tells it.

    Args:
      params: what the description is of.
      units: by name, where each of the channels has its positions.
      keep: bool [channels] by name; may be traced.
    """
    shapes = {name: np.shape(leaf) for name, leaf in trees.flatten(params).items()}
    found: dict[str, Array] = {}
    for unit, members in units.items():
        for (name, axis), positions in members.items():
            line = jnp.ones(shapes[name][axis], bool).at[positions].set(keep[unit][:, None])
            line = line.reshape([-1 if a == axis else 1 for a in range(len(shapes[name]))])
            found[name] = found[name] & line if name in found else line
    return trees.map_named(lambda name, _: found.get(name, jnp.ones((), bool)), params)
