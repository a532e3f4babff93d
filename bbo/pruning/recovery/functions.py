"""Any function of variables mended: its program is run before and after pruning, step by step."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.compaction.tracing.arrays import Step, bind
from bbo.compaction.tracing.program import Traced, trace
from bbo.pruning.recovery.kernels import Kernel, kernels_to_fit, live_steps
from bbo.pruning.recovery.solver import Problem, fit
from bbo.types import Array, PyTree, UsageError

Values = dict[int, Array]
"""Arrays by their numbers in a program."""
Mend = Callable[[Kernel, Step, Values, Values], Values]
"""``(kernel, step, dense, pruned) -> new variables``: before the step has run in ``pruned``, and
after it has in ``dense``."""


def refit_function(
    function: Callable[[PyTree, PyTree], PyTree],
    dense: PyTree,
    pruned: PyTree,
    images: PyTree,
    *,
    ridge: float = 1e-3,
) -> PyTree:
    """``least_squares.refit`` for any function that jax can trace, of any framework and layout.

    At each convolution and matrix product, what the layer reads in the pruned network, whose
    earlier layers are refitted by then, is fitted to what it put out before pruning. Kernels and
    biases are read off the function: a kernel is a variable that one product alone reads, as it is
    or rearranged; its bias is the variable added behind. Without a bias a constant is fitted where
    a norm takes off the mean of each output behind, as in training mode, and else none. Zeros stay
    zero. Other variables are left as they are, see ``fitted_kernels``.

    What the layers of both networks put out is what the function says: pass one in training mode
    where norms are to take their statistics from ``images``.

    Compiles the program of both networks side by side, at every call; where it is called often,
    ``jax.jit(functools.partial(refit_function, function))`` is compiled once.

    Args:
      function: ``(variables, images) -> anything``.
      dense: variables before pruning.
      pruned: the same with entries set to zero.
      images: what the network reads, of the training set; first axes are examples.
      ridge: of the fit, as a share of the mean square of what a layer reads, > 0.

    Returns:
      the pruned variables, refitted.

    Raises:
      UsageError: no kernel can be fitted, or the trees differ.

    >>> weights = {"in": jnp.eye(2), "out": jnp.array([[1.0], [1.0]])}
    >>> network = lambda w, x: x @ w["in"] @ w["out"]
    >>> pruned = {"in": jnp.array([[0.0, 0.0], [0.0, 1.0]]), "out": weights["out"]}
    >>> rows = jnp.array([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]])
    >>> refit_function(network, weights, pruned, rows, ridge=1e-6)["out"].round(3).tolist()
    [[1.0], [2.0]]
    """

    def mend(kernel: Kernel, step: Step, before: Values, now: Values) -> Values:
        bias = _bias(kernel, now)
        problem = Problem(
            kernel.product.patches,
            kernel.product.inputs(now[kernel.input]),
            _output(kernel, step, before),
            bias is not None or kernel.centred,
        )
        old = now[kernel.ref]
        bias = None if bias is None else bias.astype(old.dtype)
        rows = fit(problem, old.reshape(-1)[kernel.rows], bias, ridge)
        new = {kernel.ref: _placed(old, kernel.rows, rows[: len(kernel.rows)])}
        if kernel.bias is not None:
            new[kernel.bias] = _placed(now[kernel.bias], kernel.bias_places, rows[-1])
        return new

    dense, pruned, images = jax.tree.map(jnp.asarray, (dense, pruned, images))
    read = _read(function, dense, pruned, images)
    return _mended(read, dense, pruned, images, mend)


def correct_function(
    function: Callable[[PyTree, PyTree], PyTree], dense: PyTree, pruned: PyTree, images: PyTree
) -> PyTree:
    """``biases.correct_biases`` for any function that jax can trace.

    Layer by layer, the bias behind each convolution and matrix product is moved so that each output
    has the mean over ``images`` that it had before pruning, where no norm takes it off. A bias of
    zero beside weights of zero counts as removed and stays.

    Args:
      function: see ``refit_function``; kernels and biases are found as there.
      dense: variables before pruning.
      pruned: the same with entries set to zero.
      images: what the network reads, of the training set.

    Returns:
      the pruned variables, with new biases.

    Raises:
      UsageError: no kernel has a bias that can be moved, or the trees differ.
    """

    def mend(kernel: Kernel, step: Step, before: Values, now: Values) -> Values:
        wanted = _output(kernel, step, before)
        output = _output(kernel, step, now | _run(step, now))
        shift = jnp.mean(trees.wide(wanted) - trees.wide(output), tuple(range(wanted.ndim - 1)))
        bias, rows = _bias(kernel, now), now[kernel.ref].reshape(-1)[kernel.rows]
        assert bias is not None and kernel.bias is not None
        removed = (bias == 0) & jnp.all(rows == 0, axis=0)
        moved = bias + jnp.where(removed, jnp.zeros_like(shift), shift).astype(bias.dtype)
        return {kernel.bias: _placed(now[kernel.bias], kernel.bias_places, moved)}

    dense, pruned, images = jax.tree.map(jnp.asarray, (dense, pruned, images))
    read = _read(function, dense, pruned, images)
    kernels = {
        ref: kernel
        for ref, kernel in read.kernels.items()
        if kernel.bias is not None and not kernel.centred
    }
    if not kernels:
        raise UsageError(
            "behind no kernel is a bias added that a norm does not take off; norms are mended by "
            "recovery.reestimate, kernels by recovery.refit_function"
        )
    return _mended(read._replace(kernels=kernels), dense, pruned, images, mend)


def fitted_kernels(
    function: Callable[[PyTree, PyTree], PyTree], variables: PyTree, images: PyTree
) -> dict[str, str]:
    """Which variables ``refit_function`` fits, biases too: by name, empty, or why it does not.

    Args:
      function: see there.
      variables: shapes and dtypes suffice.
      images: shapes and dtypes suffice.

    >>> tied = lambda w, x: jnp.tanh(x @ w["tied"]) @ w["tied"].T @ w["out"]
    >>> fitted_kernels(tied, {"tied": jnp.ones((2, 3)), "out": jnp.ones((2, 1))}, jnp.ones((4, 2)))
    {'out': '',
     'tied': 'it is read more than once (dot_general), and one fit would serve one reader alone'}
    """
    traced = trace(function, variables, images)
    kernels, left = kernels_to_fit(traced)
    fitted = [traced.program.inputs.index(ref) for k in kernels.values() for ref in k.variables]
    reasons = left | {traced.names[number]: "" for number in fitted}
    return {name: reasons[name] for name in traced.names if name in reasons}


class _Read(NamedTuple):
    """A function, and its kernels by what their products write."""

    traced: Traced
    kernels: dict[int, Kernel]


def _read(
    function: Callable[[PyTree, PyTree], PyTree], dense: PyTree, pruned: PyTree, images: PyTree
) -> _Read:
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (dense, pruned)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            "dense and pruned are not variables of one network: their names, shapes or dtypes "
            "differ; pruned has to hold zeros where something was removed"
        )
    traced = trace(function, pruned, images)
    kernels, left = kernels_to_fit(traced)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
    if not kernels:
        raise UsageError(f"no kernel of the function can be fitted; {reasons or 'it has none'}")
    if left:
        logging.getLogger(__name__).info("variables that are left as they are: %s", reasons)
    return _Read(traced, kernels)


def _mended(read: _Read, dense: PyTree, pruned: PyTree, images: PyTree, mend: Mend) -> PyTree:
    """Runs both networks side by side, and mends before each product."""
    program, constants = read.traced.program, read.traced.arrays.constants
    variables = program.inputs[: len(read.traced.names)]

    @jax.jit
    def run(dense: PyTree, pruned: PyTree, images: PyTree) -> PyTree:
        inputs = jax.tree.leaves(images)
        before, now = (
            constants | dict(zip(program.inputs, [*jax.tree.leaves(tree), *inputs], strict=True))
            for tree in (dense, pruned)
        )
        for step in live_steps(program):
            before |= _run(step, before)
            kernel = read.kernels.get(step.results[0])
            if kernel:
                now |= mend(kernel, step, before, now)
                for rearranged in kernel.steps:
                    now |= _run(rearranged, now)
            now |= _run(step, now)
        return jax.tree.unflatten(jax.tree.structure(pruned), [now[ref] for ref in variables])

    return run(dense, pruned, images)


def _run(step: Step, values: Values) -> Values:
    results = bind(step, [values[ref] for ref in step.operands])
    return dict(
        zip(step.results, results if step.primitive.multiple_results else [results], strict=True)
    )


def _bias(kernel: Kernel, values: Values) -> Array | None:
    """[out], or None."""
    if kernel.bias is None:
        return None
    return values[kernel.bias].reshape(-1)[kernel.bias_places]


def _output(kernel: Kernel, step: Step, values: Values) -> Array:
    """What a layer puts out, with its bias: [n, ..., out]."""
    output, bias = kernel.product.outputs(values[step.results[0]]), _bias(kernel, values)
    return output if bias is None else output + bias.astype(output.dtype)


def _placed(old: Array, places: Any, new: Array) -> Array:
    """An array with new values at some places of it."""
    flat = old.reshape(-1)
    return flat.at[places.reshape(-1)].set(new.reshape(-1).astype(flat.dtype)).reshape(old.shape)
