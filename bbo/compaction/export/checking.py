"""Networks that become files, each run in a fresh process before it gets its name.

That process knows nothing of this package; only if what it computes is what the function computes
here does the file get its name.
"""

import functools
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from bbo import trees
from bbo.compaction.export.whole import whole
from bbo.settings.installed import how_to_install
from bbo.types import Array, PyTree, RunError, UsageError, require

TOLERANCE = 1e-5
"""Largest absolute difference of a result, over its largest absolute value."""

Function = Callable[[PyTree, Array], PyTree]
"""``function(variables, images)``: images [n, ...] to logits [n, classes], or to several arrays in
dicts, lists and tuples."""


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


class Format(NamedTuple):
    """How a function becomes a file, and what runs it."""

    convert: Callable[[Callable[[Array], PyTree], jax.ShapeDtypeStruct, Sequence[str]], bytes]
    """Of a function of images, of their shape without the batch, and of names for the results."""
    run: str
    """Python that turns ``file`` into ``run``, of images to a list of results, and ``version``."""
    apart: tuple[str, ...]
    """Packages that it does without."""


CHILD = """
import sys, numpy as np
file, given, results = sys.argv[1:]
%s
images = np.load(given)
found = [np.asarray(x) for some in (images[:1], images) for x in run(some)]
np.savez(results, *[x.astype(complex if np.iscomplexobj(x) else float) for x in found])
loaded = {name.partition(".")[0] for name in sys.modules} & set(%s)
assert not loaded, "it has loaded " + ", ".join(sorted(loaded))
print(version)
"""
"""What the fresh process does."""


def optional(name: str) -> Any:
    """A module of the extra ``export``.

    Raises:
      UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name} is not installed; {how_to_install(name)}") from None


def write(
    path: pathlib.Path, function: Function, variables: PyTree, example: Array, *, of: Format
) -> Check:
    """Converts a function, runs what has come of it, and only then gives the file its name.

    Arguments and errors are those of ``write_stablehlo``.
    """
    images = np.asarray(example)
    require(
        images.shape[:1] > (1,), "the example's shape", images.shape, "that of 2 images or more"
    )
    # On the CPU, as the file: elsewhere float32 may be multiplied as something shorter.
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        variables = trees.map_named(functools.partial(_placed, cpu), variables)
        compiled = jax.jit(function)
        shape = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
        try:
            names = _names(jax.eval_shape(compiled, variables, images))
            wanted = [
                np.asarray(x)
                for some in (images[:1], images)
                for x in jax.tree.leaves(compiled(variables, some))
            ]
            content = of.convert(functools.partial(function, variables), shape, names)
        except UsageError:
            raise
        except Exception as error:  # of many kinds and many lines
            logging.debug("exporting a network", exc_info=error)
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise RunError(f"{path.name} cannot be made of this function: {reason}") from None
    with whole(path) as temporary:
        temporary.write_bytes(content)
        found, runtime = _run(CHILD % (of.run, of.apart), temporary, images)
        difference = _difference(found, wanted)
        if not difference <= TOLERANCE:  # nor is it if it is no number
            raise RunError(
                f"{path.name} is not written: {runtime} gives results that differ by "
                f"{difference:.1e} of the largest, allowed is {TOLERANCE:.0e}"
            )
    return Check(path, len(content), difference, (1, len(images)), runtime)


def _placed(device: Any, name: str, leaf: Any) -> Array:
    """A variable where the function is run; random keys are no arrays of numpy's."""
    trees.require_array(name, leaf, "exported")
    return jax.device_put(leaf, device) if trees.is_key(leaf) else jnp.asarray(np.asarray(leaf))


def _names(results: PyTree) -> list[str]:
    """What the results of a function are called.

    Raises:
      UsageError: they are not what can be compared, and read from a file.
    """
    named = trees.flatten(results)
    wrong = [trees.described(leaf) for leaf in named.values() if not trees.is_numeric(leaf)]
    if not named or wrong or not _plain(jax.tree.structure(results)):
        given = ", ".join(wrong) or str(jax.tree.structure(results)).removeprefix("PyTreeDef")
        raise UsageError(
            f"the function gives {given}; an exported function may give an array of numbers, or "
            "several in dicts, lists and tuples"
        )
    return [name or "logits" for name in named]


def _plain(structure: Any) -> bool:
    """Whether there are no containers but those that any jax knows."""
    node = structure.node_data()
    plain = node is None or node[0] in (dict, list, tuple, type(None))
    return plain and all(map(_plain, structure.children()))


def _run(child: str, file: pathlib.Path, images: np.ndarray) -> tuple[list[np.ndarray], str]:
    """What a file gives for the first image and then for all of them, and what ran it."""
    x64 = str(int(jnp.result_type(float) == np.float64))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": x64}
    with tempfile.TemporaryDirectory() as folder:
        given, results = f"{folder}/given.npy", f"{folder}/results.npz"
        np.save(given, images)
        command = [sys.executable, "-c", child, str(file.absolute()), given, results]
        options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, **options)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise RunError(f"the network as a file cannot be run in a fresh process: {reason}")
        with np.load(results) as held:
            return [held[name] for name in held.files], done.stdout.strip()


def _difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest absolute difference over the largest absolute value wanted, of any result."""
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return float("inf")
    count = len(wanted) // 2  # each of one image, and then of all
    return max(_apart(found[i::count], wanted[i::count]) for i in range(count))


def _apart(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The same of one result, for several batches."""
    flat = (np.concatenate([x.ravel() for x in arrays]) for arrays in (found, wanted))
    a, b = (x.astype(complex if np.iscomplexobj(x) else float) for x in flat)
    with np.errstate(invalid="ignore"):  # infinite ones differ by no number
        largest, scale = (float(np.abs(x).max(initial=0)) for x in (a - b, b))
    return largest / max(scale, sys.float_info.min) if largest else 0.0
