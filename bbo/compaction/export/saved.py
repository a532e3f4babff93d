"""Networks saved as plain arrays, and what they are rebuilt from."""

import hashlib
import io
import json
import pathlib
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bbo import trees
from bbo.compaction.export.structure import built, described, filled
from bbo.compaction.export.whole import whole
from bbo.files import parse_json
from bbo.types import Array, PyTree, UsageError

SPEC, ARRAYS = "network.json", "network.npz"
DAMAGED = (
    *(KeyError, TypeError, AttributeError, ValueError, OverflowError, EOFError),
    *(MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error),
)
"""What records and arrays raise that are not what they say; MemoryError by a shape that lies."""


def save_network(folder: pathlib.Path, *, spec: dict[str, Any], variables: PyTree) -> None:
    """Saves what a network is (``network.json``) and its arrays (``network.npz``).

    numpy reads the arrays, by name; those of a dtype that it lacks, such as bfloat16, are unsigned
    integers of the same bits there, and random keys are their data. The structure is kept of dicts
    (with keys that are strings or whole numbers), lists, tuples, None, and the states of NNX; of
    other classes, such as Equinox's modules, the arrays are kept by name, and ``load_network`` has
    to be given a tree of the structure.

    Args:
      folder: is made if need be; a network that is there is replaced.
      spec: what the network is rebuilt from, its widths too; JSON.
      variables: a tree of arrays, numbers and random keys.

    Raises:
      UsageError: the spec is no JSON, a leaf is no array, the names of arrays clash, or the folder
        cannot be written.
    """
    try:
        if not _has_string_keys(spec):
            raise ValueError("JSON has only strings for keys, and the spec has others")
        arrays, listed = {}, {}
        for name, leaf in trees.flatten(variables).items():
            arrays[name], implementation = _plain(name, leaf)
            listed[name] = {"shape": arrays[name].shape, "dtype": arrays[name].dtype.name}
            listed[name] |= implementation
        content = _npz(arrays)
        record = {
            "spec": spec,
            "structure": described(variables),
            "arrays": listed,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        record["record_sha256"] = _digest(record)
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"this cannot be saved as a network: {error}") from None
    # The record last: until then it does not fit the new arrays, and is refused.
    for name, data in ((ARRAYS, content), (SPEC, text.encode())):
        with whole(folder / name) as temporary:
            temporary.write_bytes(data)


def _digest(record: dict[str, Any]) -> str:
    """Of a record as JSON has it, whatever its spaces."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _has_string_keys(spec: Any) -> bool:
    """JSON makes strings of other keys, in silence."""
    if isinstance(spec, dict):
        return all(isinstance(key, str) and _has_string_keys(spec[key]) for key in spec)
    return not isinstance(spec, list | tuple) or all(map(_has_string_keys, spec))


def _plain(name: str, leaf: Any) -> tuple[np.ndarray, dict[str, str]]:
    """A leaf as numpy has it; of random keys their data, and the implementation."""
    trees.require_array(name, leaf, "saved")
    if not trees.is_key(leaf):
        try:
            array = np.asarray(leaf)
        except (TypeError, RuntimeError) as error:  # it is traced, or deleted
            reason = str(error).partition("\n")[0]
            raise UsageError(f"{name} cannot be saved as an array: {reason}") from None
        if array.dtype == object:
            raise UsageError(f"{name} is {trees.described(leaf)} without values; give an array")
        return array, {}
    implementation = jax.random.key_impl(leaf)
    if not isinstance(implementation, str):
        raise UsageError(f"{name} is a key of {implementation}, which is not one of jax's own")
    return np.asarray(jax.random.key_data(leaf)), {"key": implementation}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """What ``np.savez`` writes; but any name will do, and nothing is pickled."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            if array.dtype.isbuiltin == 2:  # not numpy's own
                array = array.view(f"u{array.dtype.itemsize}")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        if archive.namelist() != [f"{name}.npy" for name in arrays]:
            raise ValueError("names of arrays must not contain zeros")
    return buffer.getvalue()


def load_network(
    folder: pathlib.Path, *, like: PyTree | None = None
) -> tuple[dict[str, Any], PyTree]:
    """The spec and the numpy arrays that ``save_network`` has saved, in the structure they had.

    Random keys are keys again. A network saved before structures were kept is nested dicts.

    Args:
      folder: with ``network.json`` and ``network.npz``.
      like: a tree of the structure, to be filled with the arrays of its names; their shapes may
        differ. Needed if it has classes that are not known here.

    Raises:
      UsageError: a file is missing, cannot be read or is damaged; ``like`` is needed, or has other
        names.
    """
    try:
        text, content = ((folder / name).read_bytes() for name in (SPEC, ARRAYS))
    except OSError as error:
        reason = f"{error.filename} cannot be read: {error.strerror}"
        raise UsageError(f"{reason}; name a folder with {SPEC} and {ARRAYS}") from None
    try:
        record = parse_json(text)
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ValueError
        # One that was saved before records had a digest has none.
        if "record_sha256" in record and record.pop("record_sha256") != _digest(record):
            raise ValueError
        if record.keys() - {"spec", "structure", "arrays", "sha256"}:  # its name is damaged
            raise ValueError
        arrays = _arrays(content, record["arrays"])
        if like is not None:
            return record["spec"], filled(like, arrays)
        if "structure" not in record:
            return record["spec"], traverse_util.unflatten_dict(arrays, sep="/")
        return record["spec"], built(record["structure"], arrays)
    except UsageError:
        raise
    except DAMAGED:
        raise UsageError(
            f"{folder} holds a damaged network: {SPEC} and {ARRAYS} do not fit; save it anew"
        ) from None


def _arrays(content: bytes, listed: dict[str, dict[str, Any]]) -> dict[str, Array]:
    """The arrays of an npz, of the dtypes that they had."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, told in listed.items():
            with archive.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            if array.dtype.name != told["dtype"]:
                array = array.view(jnp.dtype(told["dtype"]))
            if list(array.shape) != told["shape"]:
                raise ValueError(name)
            key = told.get("key")
            arrays[name] = jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else array
    return arrays
