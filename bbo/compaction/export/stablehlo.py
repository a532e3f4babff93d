"""Networks for jax alone, as StableHLO."""

import pathlib
from collections.abc import Callable, Sequence

import jax
from jax import export

from bbo.compaction.export.checking import Check, Format, Function, optional, write
from bbo.types import Array, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a file can run on."""
RUN = """
import jax
from jax import export
with open(file, "rb") as opened:
    call = export.deserialize(bytearray(opened.read())).call
run = lambda images: jax.tree.leaves(call(images))
version = "jax " + jax.__version__
"""


def write_stablehlo(
    path: pathlib.Path, function: Function, variables: PyTree, example: Array
) -> Check:
    """Writes a network for ``jax.export.deserialize``: variables included, any batch size.

    It runs on ``PLATFORMS``; it is checked on the CPU, in a process that has jax and numpy.

    Args:
      path: of the file, such as ``network.stablehlo``; one that is there is replaced.
      function: pure, in float32 or float64: bfloat16 is not the same twice to ``TOLERANCE``. It
        gives an array, or several in dicts, lists and tuples.
      variables: concrete arrays; random keys among them too.
      example: images for the check, at least two.

    Raises:
      UsageError: something is not installed, there is one image, the variables are no arrays or
        the results others than these, or the file cannot be written.
      RunError: the function cannot be converted, or the result cannot be run or differs; no file.
    """
    optional("flatbuffers")
    return write(path, function, variables, example, of=FORMAT)


def _convert(
    function: Callable[[Array], PyTree], image: jax.ShapeDtypeStruct, names: Sequence[str]
) -> bytes:
    del names  # the tree of the results is in the file
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image.shape), image.dtype)
    return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


FORMAT = Format(_convert, RUN, ("bbo", "flax"))
