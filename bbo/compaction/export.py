"""Networks as files: for jax alone (StableHLO), for other runtimes (ONNX), and as plain arrays.

A network that is exported is run from its file in a fresh process that knows nothing of this
package; only if its results are those of the function here does the file get its name.
"""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from bbo import trees
from bbo.settings.installed import how_to_install
from bbo.types import Array, PyTree, RunError, UsageError, require

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a StableHLO file can run on."""
TOLERANCE = 1e-5
"""Largest absolute difference of the logits, over their largest absolute value."""
SPEC, ARRAYS = "network.json", "network.npz"

Function = Callable[[PyTree, Array], Array]
"""``function(variables, images)``: images [n, ...] to logits [n, classes]."""


class Check(NamedTuple):
    """A file that has been run, and what came of it."""

    path: pathlib.Path
    bytes: int
    difference: float
    """Largest relative difference from the function, see ``TOLERANCE``."""
    batch_sizes: tuple[int, ...]
    """With which it was run."""
    runtime: str
    """What ran it, with its version."""


CHILD = """
import sys, numpy as np
file, given, results = sys.argv[1:]
%s
images = np.load(given)
np.save(results, np.concatenate([run(images[:1]), run(images)]).astype(np.float64))
loaded = {name.partition(".")[0] for name in sys.modules} & {%s}
assert not loaded, "it has loaded " + ", ".join(sorted(loaded))
print(version)
"""
"""What the fresh process does."""
STABLEHLO = """
import jax
from jax import export
with open(file, "rb") as opened:
    run = export.deserialize(bytearray(opened.read())).call
version = "jax " + jax.__version__
"""
ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
run = lambda images: session.run(None, {"images": images})[0]
version = "onnxruntime " + onnxruntime.__version__
"""


def write_stablehlo(
    path: pathlib.Path, function: Function, variables: PyTree, example: Array
) -> Check:
    """Writes a network for ``jax.export.deserialize``: variables included, any batch size.

    It runs on ``PLATFORMS``; it is checked on the CPU, in a process that has jax and numpy.

    Args:
      path: of the file, such as ``network.stablehlo``; one that is there is replaced.
      function: pure, in float32 or float64: bfloat16 is not the same twice to ``TOLERANCE``.
      variables: concrete arrays.
      example: images for the check, at least two.

    Raises:
      UsageError: something is not installed, there is one image, or the file cannot be written.
      RunError: the function cannot be converted, or the result cannot be run or differs; no file.
    """
    _optional("flatbuffers")
    child = CHILD % (STABLEHLO, "'bbo', 'flax'")
    return _write(path, function, variables, example=example, convert=_stablehlo, child=child)


def _stablehlo(function: Callable[[Array], Array], shape: tuple[int, ...], dtype: Any) -> bytes:
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *shape), dtype)
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def write_onnx(path: pathlib.Path, function: Function, variables: PyTree, example: Array) -> Check:
    """Writes a network as ONNX: variables included, any batch size, ``images`` to ``logits``.

    jax2onnx converts it; onnxruntime runs it on the CPU, in a process without jax. While jax2onnx
    traces the function it replaces some of Flax's, which then want keyword arguments
    (``nn.max_pool(x, window_shape=..., strides=...)``); maxima over images by a plain
    ``lax.reduce_window`` become what onnxruntime cannot run, and so do convolutions in other than
    float32. Arguments and errors are those of ``write_stablehlo``.
    """
    _optional("onnxruntime")
    child = CHILD % (ONNX, "'bbo', 'flax', 'jax'")
    return _write(path, function, variables, example=example, convert=_onnx, child=child)


def _onnx(function: Callable[[Array], Array], shape: tuple[int, ...], dtype: Any) -> bytes:
    try:
        model = _optional("jax2onnx").to_onnx(
            function,
            inputs=[jax.ShapeDtypeStruct(("batch", *shape), dtype)],
            enable_double_precision=dtype == np.float64,
            input_names=["images"],
            output_names=["logits"],
        )
    finally:
        # Its primitives stay in the caches of jax.jit, and jax cannot compile them.
        jax.clear_caches()
    # jax2onnx 0.17 moves transpositions but not the shapes it has noted: onnxruntime warns of
    # them, and refuses residual networks. It finds all shapes by itself.
    model.graph.ClearField("value_info")
    return model.SerializeToString()


def _optional(name: str) -> Any:
    """A module of the extra ``export``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name} is not installed; {how_to_install(name)}") from None


def _write(
    path: pathlib.Path,
    function: Function,
    variables: PyTree,
    *,
    example: Array,
    convert: Callable[..., bytes],
    child: str,
) -> Check:
    """Converts a function, runs what has come of it, and only then gives the file its name."""
    images = np.asarray(example)
    require(
        images.shape[:1] > (1,), "the example's shape", images.shape, "that of 2 images or more"
    )
    # On the CPU, as the file: elsewhere float32 may be multiplied as something shorter.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), variables)
        compiled = jax.jit(function)
        results = [np.asarray(compiled(variables, some)) for some in (images[:1], images)]
        bound = functools.partial(function, variables)
        try:
            content = convert(bound, images.shape[1:], images.dtype)
        except UsageError:
            raise
        except Exception as error:  # of many kinds and many lines
            logging.debug("exporting a network", exc_info=error)
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise RunError(f"{path.name} cannot be made of this function: {reason}") from None
    with _whole(path) as temporary:
        temporary.write_bytes(content)
        found, runtime = _run(child, temporary, images)
        difference = _difference(found, np.concatenate(results).astype(np.float64))
        if not difference <= TOLERANCE:  # nor is it if it is no number
            raise RunError(
                f"{path.name} is not written: {runtime} gives logits that differ by "
                f"{difference:.1e} of the largest, allowed is {TOLERANCE:.0e}"
            )
    return Check(path, len(content), difference, (1, len(images)), runtime)


def _run(child: str, file: pathlib.Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """What a file gives for the first image and then for all of them, and what ran it."""
    x64 = str(int(jnp.result_type(float) == np.float64))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": x64}
    with tempfile.TemporaryDirectory() as folder:
        given, results = (f"{folder}/{name}.npy" for name in ("given", "results"))
        np.save(given, images)
        command = [sys.executable, "-c", child, str(file.absolute()), given, results]
        options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, **options)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise RunError(f"the network as a file cannot be run in a fresh process: {reason}")
        return np.load(results), done.stdout.strip()


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest absolute difference over the largest absolute value wanted."""
    if found.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # infinite ones differ by no number
        largest, scale = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
    return largest / max(scale, sys.float_info.min) if largest else 0.0


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives another name to write to; the file has its own when all has gone well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else the name may be on the disk before the content
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def save_network(folder: pathlib.Path, *, spec: dict[str, Any], variables: PyTree) -> None:
    """Saves what a network is (``network.json``) and its arrays (``network.npz``).

    numpy reads the arrays, by name; those of a dtype that it lacks, such as bfloat16, are unsigned
    integers of the same bits there.

    Args:
      folder: is made if need be; a network that is there is replaced.
      spec: what the network is rebuilt from, its widths too; JSON.
      variables: arrays in nested dicts.

    Raises:
      UsageError: the spec is no JSON, the names of arrays clash, or the folder cannot be written.
    """
    named = trees.flatten(variables)
    try:
        arrays = {name: np.asarray(leaf) for name, leaf in named.items()}
        traverse_util.unflatten_dict(arrays, sep="/")  # as they will be loaded
        content = _npz(arrays)
        listed = {name: {"shape": x.shape, "dtype": x.dtype.name} for name, x in arrays.items()}
        record = {"spec": spec, "arrays": listed, "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, IndexError) as error:
        raise UsageError(f"this cannot be saved as a network: {error}") from None
    # The record last: until then it does not fit the new arrays, and is refused.
    for name, data in ((ARRAYS, content), (SPEC, text.encode())):
        with _whole(folder / name) as temporary:
            temporary.write_bytes(data)


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """What ``np.savez`` writes; but any name will do, and nothing is pickled."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            if array.dtype.isbuiltin == 2:  # not numpy's own
                array = array.view(f"u{array.dtype.itemsize}")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def load_network(folder: pathlib.Path) -> tuple[dict[str, Any], PyTree]:
    """The spec and the numpy arrays, in nested dicts, that ``save_network`` has saved.

    Raises:
      UsageError: a file is missing, cannot be read or is damaged.
    """
    try:
        text, content = ((folder / name).read_bytes() for name in (SPEC, ARRAYS))
    except OSError as error:
        reason = f"{error.filename} cannot be read: {error.strerror}"
        raise UsageError(f"{reason}; name a folder with {SPEC} and {ARRAYS}") from None
    try:
        record = json.loads(text)
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ValueError
        arrays = {}
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            for name, told in record["arrays"].items():
                array = held[name]
                if array.dtype.name != told["dtype"]:
                    array = array.view(jnp.dtype(told["dtype"]))
                if list(array.shape) != told["shape"]:
                    raise ValueError
                arrays[name] = array
        return record["spec"], traverse_util.unflatten_dict(arrays, sep="/")
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UsageError(
            f"{folder} holds a damaged network: {SPEC} and {ARRAYS} do not fit; save it anew"
        ) from None
