"""In one call: a network of anyone's, pruned, mended, and made smaller."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bbo import trees
from bbo.compaction.channels import Channels, Cut, find_channels
from bbo.compaction.cost import macs_left
from bbo.compaction.removal import compact, dead_channels, smaller
from bbo.pruning.criteria import Criterion
from bbo.pruning.layers import Sorted, sort_layers
from bbo.pruning.pruner import prepare_channels
from bbo.pruning.shrinking.arguments import check_mended, check_network
from bbo.pruning.shrinking.goal import Limits, goal_of, not_ignored, reached
from bbo.pruning.shrinking.report import Report, difference, rows_of
from bbo.pruning.units import describe, scored_by
from bbo.types import Array, PyTree, require, require_one_of

Recover = Callable[[PyTree, PyTree], PyTree]
"""``(variables, pruned) -> mended``: variables before and after pruning."""


class Shrunk(NamedTuple):
    """A smaller network."""

    function: Callable[..., PyTree]
    """``function(variables, *inputs)``, see ``compaction.Compact``."""
    variables: PyTree
    report: Report
    masked: PyTree
    """The variables of the pruned and mended network before removal, as large as they were; where
    layers of a scan choose apart (the report says so) their channels have another order."""
    cut: Cut
    """What was removed of them; ``compact(train, masked, ..., removed=cut)`` does the same to
    another function of these variables, see ``masked``."""


def shrink(  # noqa: PLR0913 (how far, by what, of which, and what is done about it)
    function: Callable[..., PyTree],
    variables: PyTree,
    *inputs: PyTree,
    keep: float | Mapping[str, float] | None = None,
    macs: float | None = None,
    params: float | None = None,
    scope: str = "group",
    criterion: str | Criterion | Mapping[str, Array] = "l2",
    on: trees.Selector | None = None,
    ignore: str | Sequence[str] = (),
    at_least: float = 0.0,
    round_to: int = 1,
    recover: Recover | None = None,
    **kwargs: Any,
) -> Shrunk:
    """Removes the least important channels of ``function(variables, *inputs, **kwargs)``.

    Channels are found in the program, whatever its modules, names and layouts: what puts one out,
    what reads it, and what dies with it. They are scored, the lowest are set to zero, the network
    is mended, and what is dead is removed. The small network is compared with the masked one.

    Layers that are stacked for a ``scan`` lose as many channels each, every layer its own: they are
    sorted first, see ``layers.sort_layers``, unless the scores are given.

    Args:
      function: any function that jax can trace, in evaluation mode.
      variables: all its arrays, concrete.
      *inputs: examples, such as a batch of images; of ``jax.ShapeDtypeStruct`` nothing is compared.
      keep: the share of the channels that stays of each group, in (0, 1]; or for some, by regular
        expressions on names; groups that match none stay whole.
      macs: instead, the largest share of the multiply-adds to keep, by the same share of channels
        everywhere.
      params: instead, the largest share of the numbers in all arrays.
      scope: ``group``: channels compete within their group; ``global``: all compete.
      criterion: by name, or a function, see ``pruning.channel_scores``; or scores from there, for
        instance made with gradients. What has none stays whole.
      on: kernels whose filters may be removed, see ``units.describe``. None: all that can be.
      ignore: regular expressions; groups with a matching array stay whole.
      at_least: the share of each group that stays in any case, in [0, 1).
      round_to: a multiple of so many channels stays of each group, rounded up, where there are so
        many.
      recover: mends the pruned network before removal, for instance
        ``lambda dense, pruned: recovery.refit_function(function, dense, pruned, images)``.
      **kwargs: of ``function``, such as ``train=False``.

    Raises:
      UsageError: an argument out of range or out of reach, or nothing that can be removed.
      RunError: the small network does not equal the masked one.

    >>> import jax.numpy as jnp
    >>> weights = {"in": jnp.array([[3.0, 1.0, 2.0, 4.0]]), "out": jnp.ones((4, 2))}
    >>> function = lambda weights, x: jax.nn.relu(x @ weights["in"]) @ weights["out"]
    >>> small = shrink(function, weights, jnp.ones((5, 1)), keep=0.5)
    >>> small.variables["in"].tolist()
    [[3.0, 4.0]]
    >>> print(small.report)
    channels of  there  asked  removed
    in               4      2        2
    out              2      0        0  it is an axis of the result
    left: 50.0% of the multiply-adds, 50.0% of the arrays; 0.0e+00 off the masked network
    """
    check_network(function, variables, inputs)
    goal = goal_of(keep, macs, params)
    require_one_of(("group", "global"), "scope", scope)
    require(0 <= at_least < 1, "at_least", at_least, "in [0, 1)")
    require(isinstance(round_to, int) and round_to >= 1, "round_to", round_to, "1 or more")
    found = find_channels(function, variables, *inputs, **kwargs)
    described = not_ignored(describe(found, on), [ignore] if isinstance(ignore, str) else ignore)
    apart = Sorted(variables, {})
    if not isinstance(criterion, Mapping):
        same = {"found": found, "units": described.units, "criterion": criterion}
        apart = sort_layers(function, variables, inputs, kwargs, **same)
        variables = apart.variables
    scored, described = scored_by(criterion, variables, described)
    pruner = prepare_channels(variables, described.units, scored)

    def left_at(counts: Mapping[str, int]) -> float:
        cut = dead_channels(found, pruner.dropping(counts).params)
        return left_of(found, variables, cut)[goal.measure]

    counts = reached(goal, left_at, described.units, scored, Limits(scope, at_least, round_to))
    masked = pruner.dropping(counts).params
    mended = masked if recover is None else recover(variables, masked)
    check_mended(mended, masked)
    cut = dead_channels(found, mended)
    small = compact(function, mended, *inputs, removed=cut, **kwargs)
    pair = ((function, mended), (small.function, small.variables))
    off = difference(*pair, inputs, kwargs)
    rows = rows_of(described, counts, cut, apart.layers)
    report = Report(rows, **left_of(found, mended, cut), difference=off)
    return Shrunk(small.function, small.variables, report, mended, cut)


def left_of(found: Channels, variables: PyTree, cut: Cut) -> dict[str, float]:
    """The shares of the multiply-adds and of the numbers in all arrays that a cut leaves."""
    left, whole = macs_left(found, cut)
    small = jax.eval_shape(lambda: smaller(variables, cut))
    sizes = [sum(np.prod(np.shape(x)) for x in jax.tree.leaves(t)) for t in (small, variables)]
    return {"macs": left / whole if whole else 1.0, "params": float(sizes[0] / sizes[1])}
