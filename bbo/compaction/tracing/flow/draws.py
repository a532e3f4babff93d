"""Primitives of ``jax.random``: keys, and the random bits that are made of them."""

from bbo.compaction.tracing.flow.arithmetic import elementwise
from bbo.compaction.tracing.flow.positions import Call, Flow, Place, same


def from_keys(call: Call) -> Flow:
    """The axes of the keys come first; behind them are those of what is drawn of each, new."""
    axes = range(len(call.operands[0]))
    return Flow(same(call, [(axis, axis) for axis in axes]))


def wrap(call: Call) -> Flow:
    """Numbers become keys: the last axis vanishes."""
    axes = range(len(call.results[0]))
    last = len(call.operands[0]) - 1
    ties = same(call, [(axis, axis) for axis in axes])
    return Flow(ties, fixed_operands=[(Place(0, last), "it holds the numbers of a random key")])


DRAWN = ("random_bits", "random_split")
"""Replayed at the sizes that were, and what is left of them is taken: each draw stays what it was,
so that a network of which nothing but dead channels is removed stays the same, dropout and all."""
DRAWS = {
    **dict.fromkeys((*DRAWN, "random_unwrap"), from_keys),
    **dict.fromkeys(("random_seed", "random_fold_in", "random_clone", "threefry2x32"), elementwise),
    "random_wrap": wrap,
}
"""The rules."""
