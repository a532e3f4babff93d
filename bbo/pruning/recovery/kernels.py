"""The kernels of a program that can be fitted, with the places that their biases have."""

import collections
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bbo.compaction.tracing.arrays import Program, Step
from bbo.compaction.tracing.custom import plain_steps
from bbo.compaction.tracing.flow.positions import shape_of
from bbo.compaction.tracing.program import Traced
from bbo.pruning.recovery.layouts import is_layout, lean, moved, summed
from bbo.pruning.recovery.products import PRODUCTS, Product, product_of

SUMS = ("reduce_sum", "psum")
STATISTICS = (*SUMS, "square", "integer_pow")
"""What a norm does with an array besides taking off its mean."""


class Kernel(NamedTuple):
    """A kernel, where it is read, and what is added behind."""

    name: str
    ref: int
    rows: np.ndarray
    """int [features, out]: where each entry of the matrix lies in the variable."""
    steps: tuple[Step, ...]
    """From the variable to the operand of the product, then from the bias to that of its sum."""
    product: Product
    input: int
    """The array that is multiplied with it."""
    bias: int | None
    """The variable that is added behind, if there is one."""
    bias_places: np.ndarray
    """int [out]: where the bias of each output lies in its variable."""
    centred: bool
    """Whether a norm takes off the mean of each output (over examples or positions) behind."""

    @property
    def variables(self) -> list[int]:
        """The kernel and its bias."""
        return [self.ref] if self.bias is None else [self.ref, self.bias]


class _Source(NamedTuple):
    """A variable, rearranged."""

    ref: int
    steps: tuple[Step, ...]


class _Graph(NamedTuple):
    """Which steps read and write what; those without consequence are left out."""

    traced: Traced
    steps: list[Step]
    readers: dict[int, list[tuple[Step, int]]]
    """Of each array: steps, and the operand that it is."""
    writers: dict[int, Step]
    sources: dict[int, _Source]
    """Arrays that are variables, rearranged or not."""
    ends: dict[int, list[tuple[Step, int, _Source]]]
    """Of each variable: the steps that do something else with it than to rearrange it."""

    def shape(self, ref: int) -> tuple[int, ...]:
        return tuple(shape_of(self.traced.arrays.avals[ref]))

    def places(self, source: _Source) -> np.ndarray:
        """Of each entry, where it lies in the variable."""
        shape = self.shape(source.ref)
        return moved(source.steps, np.arange(int(np.prod(shape))).reshape(shape))


def kernels_to_fit(traced: Traced) -> tuple[dict[int, Kernel], dict[str, str]]:
    """The kernels of a program that one product reads, and what is none of these.

    Narrower than ``compaction.find_kernels``, by which channels are told.

    Returns:
      by the number of the array that the product writes: its kernel; and by name, why others are
      none that can be fitted. Biases, and variables that nothing reads, are in neither; nor are
      those with one axis or none that are in no product.
    """
    graph = _graph_of(traced)
    found, left = {}, {}
    for name, ref in zip(traced.names, traced.program.inputs, strict=False):
        ends = graph.ends[ref]
        products = [step for step, _, _ in ends if step.primitive.name in PRODUCTS]
        axes = [size for size in graph.shape(ref) if size > 1]  # those of [1, 1, 1, out] are one
        if not ends or not (products or len(axes) > 1):
            continue
        kernel = _kernel(graph, name, ends, bool(products))
        if isinstance(kernel, str):
            left[name] = kernel
        else:
            found[ends[0][0].results[0]] = kernel
    biases = {kernel.bias for kernel in found.values()}
    numbers = dict(zip(traced.names, traced.program.inputs, strict=False))
    return found, {name: why for name, why in left.items() if numbers[name] not in biases}


def live_steps(program: Program) -> list[Step]:
    """The steps that the outputs depend on; of functions with derivatives of their own, theirs."""
    needed, kept = set(program.outputs), []
    for step in reversed(list(plain_steps(program.steps))):
        if needed.intersection(step.results):
            needed.update(step.operands)
            kept.append(step)
    return kept[::-1]


def _graph_of(traced: Traced) -> _Graph:
    steps = live_steps(traced.program)
    graph = _Graph(
        traced, steps, collections.defaultdict(list), {}, {}, collections.defaultdict(list)
    )
    variables = traced.program.inputs[: len(traced.names)]
    graph.sources.update({ref: _Source(ref, ()) for ref in variables})
    for step in steps:
        graph.writers.update(dict.fromkeys(step.results, step))
        for place, ref in enumerate(step.operands):
            graph.readers[ref].append((step, place))
            if ref not in graph.sources:
                continue
            source = graph.sources[ref]
            if is_layout(step):
                graph.sources[step.results[0]] = _Source(source.ref, (*source.steps, step))
            else:
                graph.ends[source.ref].append((step, place, source))
    return graph


def _kernel(
    graph: _Graph, name: str, ends: list[tuple[Step, int, _Source]], in_product: bool
) -> Kernel | str:
    """The kernel that a variable is, or why it is none."""
    arrays = graph.traced.arrays
    readers = ", ".join(dict.fromkeys(step.primitive.name for step, _, _ in ends))
    step, place, source = ends[0]
    if any(step.inner for step, _, _ in ends):
        return f"it is read within {readers}, and loops and branches are not entered"
    if not in_product:
        return f"no product reads it, but {readers}"
    if len(ends) > 1:
        return f"it is read more than once ({readers}), and one fit would serve one reader alone"
    if not jnp.issubdtype(arrays.avals[source.ref].dtype, jnp.floating):
        return f"its entries are {arrays.avals[source.ref].dtype}"
    other = step.operands[1 - place]
    if not arrays.varies[other]:
        return "it is multiplied with what depends on no input"
    operand = graph.places(source)
    if operand.size != np.prod(graph.shape(source.ref)) or len(np.unique(operand)) != operand.size:
        return "its entries are repeated on the way to the product"
    product = product_of(step, place, operand.shape)
    if isinstance(product, str):
        return product
    result = step.results[0]
    channels = product.channels(graph.shape(result))
    bias, places, last, behind = _bias(graph, result, channels)
    steps = source.steps + (bias.steps if bias else ())
    return Kernel(
        name,
        source.ref,
        product.rows(operand),
        steps,
        product,
        other,
        bias.ref if bias else None,
        places,
        _is_centred(graph, last, behind),
    )


def _bias(
    graph: _Graph, result: int, channels: np.ndarray
) -> tuple[_Source | None, np.ndarray, int, np.ndarray]:
    """What is added to each output, and the sum with the output that stands at each place of it."""
    none, start = np.zeros(0, int), (result, channels)
    while len(graph.readers[result]) == 1 and result not in graph.traced.program.outputs:
        ((step, place),) = graph.readers[result]
        if is_layout(step):
            result, channels = step.results[0], moved([step], channels)
            continue
        other = step.operands[1 - place] if step.primitive.name in ("add", "add_any") else None
        if other not in graph.sources:
            break
        source = graph.sources[other]
        places = _paired(channels, graph.places(source))
        if places is None or len(graph.ends[source.ref]) != 1:
            break
        channels = np.broadcast_to(channels, graph.shape(step.results[0]))
        return source, places, step.results[0], channels
    return None, none, *start


def _paired(channels: np.ndarray, places: np.ndarray) -> np.ndarray | None:
    """For each output the one place that meets it and no other output; None if there are more."""
    channels, places = lean(channels, places)
    channels = channels.astype(int) - 1
    found = np.full(channels.max(initial=-1) + 1, -1)
    found[channels] = places
    if (found[channels] == places).all() and len(np.unique(found)) == len(found):
        return found
    return None


def _is_centred(graph: _Graph, result: int, channels: np.ndarray) -> bool:
    """Whether all that is done with an array is to take off a mean that each channel has to itself.

    A mean is sums and rearrangements, and gives back an array in which each channel is constant.
    Sums, and sums of squares, are read for the norm's variance.
    """
    known, found = {result: channels}, False
    todo = [result]
    while todo:
        ref = todo.pop()
        for step, place in graph.readers[ref]:
            name = step.primitive.name
            if is_layout(step):
                known[step.results[0]] = moved([step], known[ref])
                todo.append(step.results[0])
            elif name == "sub" and place == 0:
                mean = _mean(graph, step.operands[1], known)
                if mean is None:
                    return False
                ones, others = lean(known[ref], mean)
                if not np.allclose(ones, others):
                    return False
                found = True
            elif name not in STATISTICS and not (name == "mul" and set(step.operands) == {ref}):
                return False
    return found


def _mean(graph: _Graph, ref: int, known: dict[int, np.ndarray]) -> np.ndarray | None:
    """What sums, rearrangements and divisions by a number make of arrays that are known."""
    if ref in known:
        return known[ref]
    step = graph.writers.get(ref)
    if step is None:
        return None
    name, params = step.primitive.name, step.params
    x = _mean(graph, step.operands[0], known)
    if x is None:
        return None
    if is_layout(step):
        return moved([step], x)
    if name in SUMS and len(step.operands) == 1:
        axes: Any = params["axes"]
        return (
            summed(x, axes) if all(isinstance(axis, (int, np.integer)) for axis in axes) else None
        )
    number = graph.traced.arrays.constants.get(step.operands[-1])
    if name in ("div", "mul") and number is not None and np.ndim(number) == 0:
        return x / float(number) if name == "div" else x * float(number)
    return None
