"""Several devices, of one process or of many: a data mesh for jit, and pmap as an adapter.

In a run of many processes each calls the same functions with the same arguments, and its devices
hold its share of the batch.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bbo.types import PyTree, UsageError

AXIS = "data"
"""Name of the device axis, of the mesh and of pmap."""
PATIENCE = 60
"""Seconds that a process waits for the others at the end; the first one still writes then."""
AHEAD = 8
"""Computations that wait for the device, at most, while more are made ready."""


def join_processes() -> None:
    """Makes this process one of a run of many, found through SLURM, MPI, Kubernetes or a TPU pod.

    Before anything else is asked of jax.

    Raises:
      UsageError: it was not started as one of many; or as ``check_platform``.
    """
    # Of CPUs only: several programs in flight can wait for each other's messages for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(shutdown_timeout_seconds=PATIENCE)
    except ValueError as error:
        raise UsageError(
            f"distributed: this process was not started as one of many ({error}); start it with "
            "srun, mpirun, on every worker of a TPU pod, or leave --distributed out"
        ) from None
    check_platform()
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        logging.warning("several CPU devices in each process of many may hang: give each only one")


def check_platform() -> None:
    """Checks that there is a device of the kind that ``JAX_PLATFORMS`` asks for.

    In a run of many processes, after ``join_processes``.

    Raises:
      UsageError: there is none.
    """
    platforms = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # the latter where the plugin is not installed
        if not platforms:
            raise
        raise UsageError(
            f"JAX_PLATFORMS is {platforms}, and jax finds no such device here; unset it"
        ) from None


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """What the first process says, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def in_all_processes(value: bool) -> bool:
    """Whether it is so in every process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value, np.int32)).all())


def data_mesh(devices: list | None = None) -> Mesh:
    """All devices (or those given) along one axis."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same arrays on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if mesh.is_multi_process:
        # device_put would compare the arrays of all processes first.
        return _copier(everywhere)(tree)
    return jax.device_put(tree, everywhere)


@functools.cache
def _copier(where: NamedSharding) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=where)


def shard_batch(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
    """Arrays split along an axis over the devices; each process gives its devices theirs.

    Of one device they stay on the host: a compiled program takes them there faster itself.

    Raises:
      UsageError: the axis does not divide by the number of devices.
    """
    for leaf in jax.tree.leaves(tree):
        check_divides(leaf.shape[axis], mesh.size)
    if mesh.size == 1:
        return tree
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    if mesh.is_multi_process:
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, split, lambda rows: x[rows]), tree
        )
    return jax.device_put(tree, split)


def check_divides(batch_size: int, num_devices: int) -> None:
    """Raises UsageError if a batch cannot be split evenly."""
    if batch_size % num_devices:
        raise UsageError(
            f"a batch of {batch_size} cannot be split evenly over {num_devices} devices; "
            f"set batch_size to a multiple of {num_devices}"
        )


def in_shards(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """``step(state, data, batch)`` as a part of a program that each device does for itself.

    Args:
      step: sees its own rows of the batch, as under pmap, and averages over ``AXIS`` itself.
      mesh: from ``data_mesh``.

    Returns:
      the same function of the whole batch, to be compiled.
    """
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split),
        out_specs=everywhere,
        check_vma=False,
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
