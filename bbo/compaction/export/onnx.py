"""Networks for other runtimes, as ONNX."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import export

from bbo.compaction.export.checking import Check, Format, Function, optional, write
from bbo.types import Array, PyTree

RUN = """
import onnxruntime
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
run = lambda images: session.run(None, {"images": images})
version = "onnxruntime " + onnxruntime.__version__
"""


def write_onnx(path: pathlib.Path, function: Function, variables: PyTree, example: Array) -> Check:
    """Writes a network as ONNX: variables included, any batch size, ``images`` to ``logits``.

    Several results have the names that they have as a tree, such as ``logits`` and ``loss`` of a
    dict, or ``0`` and ``1`` of a tuple.

    jax2onnx converts it; onnxruntime runs it on the CPU, in a process without jax. While jax2onnx
    traces the function it replaces some of Flax's, which then want keyword arguments
    (``nn.max_pool(x, window_shape=..., strides=...)``); maxima over images by a plain
    ``lax.reduce_window`` become what onnxruntime cannot run, and so do convolutions in other than
    float32. Arguments and errors are those of ``write_stablehlo``.
    """
    optional("onnxruntime")
    return write(path, function, variables, example, of=FORMAT)


def _convert(
    function: Callable[[Array], PyTree], image: jax.ShapeDtypeStruct, names: Sequence[str]
) -> bytes:
    def flat(images: Array) -> PyTree:
        results = jax.tree.leaves(function(images))
        return tuple(results) if len(results) > 1 else results[0]

    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image.shape), image.dtype)
    with contextlib.suppress(Exception):  # some can be traced by jax2onnx alone
        # A compact function keeps the program that it traces here, and does that one again there,
        # where functions of jax.numpy are primitives of which nothing is known.
        jax.eval_shape(flat, images)
    jax.clear_caches()
    try:
        model = optional("jax2onnx").to_onnx(
            flat,
            inputs=[images],
            enable_double_precision=image.dtype == np.float64,
            input_names=["images"],
            output_names=list(names),
        )
    finally:
        # Its primitives stay in the caches of jax.jit, and jax cannot compile them.
        jax.clear_caches()
    # jax2onnx 0.17 moves transpositions but not the shapes it has noted: onnxruntime warns of
    # them, and refuses residual networks. It finds all shapes by itself.
    model.graph.ClearField("value_info")
    return model.SerializeToString()


FORMAT = Format(_convert, RUN, ("bbo", "flax", "jax"))
