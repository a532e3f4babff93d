"""Several devices: a data mesh for jit, and pmap as an adapter over the same step function."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bbo.types import PyTree, UsageError

AXIS = "data"
"""Name of the device axis, of the mesh and of pmap."""


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices (or those given) along one axis."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Arrays split along their first axis over the devices.

    Raises:
      UsageError: the first axis does not divide by the number of devices.
    """
    for leaf in jax.tree.leaves(tree):
        check_divides(leaf.shape[0], mesh.size)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def check_divides(batch_size: int, num_devices: int) -> None:
    """Raises UsageError if a batch cannot be split evenly."""
    if batch_size % num_devices:
        raise UsageError(
            f"a batch of {batch_size} cannot be split evenly over {num_devices} devices; "
            f"set batch_size to a multiple of {num_devices}"
        )


def parallelise(
    step: Callable[..., Any],
    *,
    parallel: str,
    mesh: Mesh,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles ``step(state, data, batch) -> (state, metrics)`` for all devices of a mesh.

    The old state's memory is given up to the new one where the backend can (jit).

    Args:
      step: pure; ``batch`` is a tree of arrays ``[n, ...]``. Under pmap it sees its own rows of
        the batch, and has to average over the axis ``AXIS`` itself.
      parallel: ``jit``: one program over the global batch, split by the sharding of its
        arguments. ``pmap``: one program per device; state and data are replicated.
      mesh: from ``data_mesh``.
      options: of the compiler (jit).
    """
    if parallel == "jit":
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.jit(step, donate_argnums=0, out_shardings=everywhere, compiler_options=options)
    devices = mesh.devices.ravel().tolist()
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, devices=devices)

    def by_device(state: PyTree, data: PyTree, batch: PyTree) -> Any:
        rows = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
        return mapped(state, data, rows)

    return by_device
