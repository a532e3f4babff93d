"""Channels of any function masked at random, and the masked function compared with the compact."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bbo import compaction, trees
from bbo.compaction import channels


def draw(like, seed=0):
    """Random arrays of the shapes of a tree; those called ``var`` or ``scale`` are positive.

    Kernels are large enough that a deep network still tells its inputs apart.
    """
    generator = np.random.default_rng(seed)

    def leaf(name, like):
        if not jnp.issubdtype(like.dtype, jnp.floating):
            return like
        values = 2 * generator.standard_normal(like.shape) / np.sqrt(np.prod(like.shape[:-1]) + 1)
        is_positive = name.endswith(("var", "scale"))
        return jnp.asarray(np.abs(values) / 2 + 0.5 if is_positive else values, like.dtype)

    return trees.map_named(leaf, like)


def random_units(groups, generator):
    """bool [channels] for each group, at least one of them False; of one group all but one True."""
    shares = generator.uniform(0.1, 0.9, len(groups))
    units = [
        generator.uniform(size=g.size) < share for g, share in zip(groups, shares, strict=True)
    ]
    if groups:
        units[generator.integers(len(groups))][:] = True
    for of_group in units:
        of_group[generator.integers(len(of_group))] = False
    return units


def written(groups, units):
    """The positions of some channels in what puts them out: kernels, biases, norms."""
    cut = {}
    for group, removed in zip(groups, units, strict=True):
        for name, axis in group.writers:
            if not name.startswith("batch_stats") and not name.endswith(("mean", "var")):
                positions = group.members[name, axis][removed].ravel()
                cut[name, axis] = np.union1d(cut.get((name, axis), []), positions).astype(int)
    return cut


def masked(variables, cut):
    """Zeros at the positions of a cut."""

    def leaf(name, leaf):
        for axis in range(jnp.ndim(leaf)):
            if (name, axis) in cut:
                leaf = np.array(leaf)
                np.moveaxis(leaf, axis, 0)[cut[name, axis]] = 0
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

    return trees.map_named(leaf, variables)


def difference(one, other):
    """The largest difference of two trees, relative to the largest number of the first."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and np.isfinite(a).all()
        worst = max(worst, np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-30))
    return worst


def fast_jit(function):
    """``jax.jit`` that spends no time on making the program fast."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=options)


def check(function, variables, *inputs, seeds, tolerance, all_dead=True):
    """Masks, compacts and compares; gives the last of the compact functions.

    Args:
      function: of variables and inputs.
      variables: concrete arrays.
      *inputs: concrete arrays.
      seeds: one mask for each.
      tolerance: of ``difference``.
      all_dead: whether just what is masked must be gone.
    """
    found = channels.find_channels(function, variables, *inputs)
    full, small = fast_jit(function), None
    for seed in seeds:
        units = random_units(found.removable, np.random.default_rng(seed))
        zeroed = masked(variables, written(found.removable, units))
        small = compaction.compact(function, zeroed, *inputs)
        if all_dead:
            expected = channels.cut_of(found.removable, units)
            assert {m: p.tolist() for m, p in small.cut.items()} == {
                m: p.tolist() for m, p in expected.items()
            }
        given = full(zeroed, *inputs)
        assert difference(given, fast_jit(small.function)(small.variables, *inputs)) <= tolerance
    return small


X = jnp.asarray(np.random.default_rng(0).standard_normal((5, 6)), jnp.float32)
SHAPES = {
    "a": (6, 8),
    "b": (8, 4),
    "b16": (16, 4),
    "b4": (4, 4),
    "scale": (8,),
    "shift": (8,),
    "t": (8, 4, 8),
    "kernel": (3, 3, 2, 2),
    "wide": (3, 1, 1),
}
"""Of the weights of the small cases."""


class Case(NamedTuple):
    """A function of ``h = x @ a``, [5, 8]."""

    function: Callable
    variables: Any
    groups: list[channels.Group]
    """Those of the channels of ``h``."""

    @property
    def sizes(self):
        """How many units can be removed, and how many not."""
        return tuple(
            sum(group.size for group in self.groups if bool(group.fixed) == fixed)
            for fixed in (False, True)
        )


def case(operation):
    """``operation(w, h)`` as a case."""

    def function(w, x):
        return operation(w, x @ w["a"])

    variables = draw({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in SHAPES.items()})
    found = channels.find_channels(function, variables, X)
    return Case(function, variables, [g for g in found.groups if ("a", 1) in g.members])


def dense(operation):
    """With a dense layer behind."""
    return lambda w, h: operation(h) @ w["b"]


def units_of(case, numbers):
    """bool [channels] for each group: those that are among the numbers in ``a``."""
    return [np.isin(group.members["a", 1], numbers).all(axis=1) for group in case.groups]


def cut_of(case, numbers):
    """The cut that removes channels of ``a``."""
    return channels.cut_of(case.groups, units_of(case, numbers))


def masked_and_gone(case, numbers):
    """Masks channels of ``a``; gives the difference it makes to compact, and which are gone."""
    cut = written(case.groups, units_of(case, numbers))
    cut["a", 1] = np.array(numbers, int)  # where channels are fixed, too
    variables = masked(case.variables, cut)
    small = compaction.compact(case.function, variables, X)
    full, less = fast_jit(case.function)(variables, X), fast_jit(small.function)(small.variables, X)
    return difference(full, less), set(small.cut.get(("a", 1), np.array([])).tolist())
