"""Checkpoints of a run, through Orbax; the newest is kept."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from bbo.types import PyTree, RunError, UsageError


def open_checkpoints(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """The checkpoints of a working directory, written in the background.

    In a run of many processes all of them open, save and restore together.

    Args:
      workdir: they lie in its folder ``checkpoints``.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, count: int, tree: PyTree) -> None:
    """Saves a tree of arrays.

    Args:
      manager: from ``open_checkpoints``.
      count: of the work done, larger than at the last checkpoint. In a run of many processes it
        is the count of the last poll, because Orbax asks for preemption with it.
      tree: the same in every process, on all devices.
    """
    # A copy, because it is written in the background while the next step may reuse the memory.
    manager.save(count, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, tree)), force=True)
    if jax.distributed.is_initialized():
        # Orbax asks jax with this count once more at the end, in a thread of the first process:
        # after a larger one that would make the processes disagree about where to stop.
        manager.wait_until_finished()


def restore_newest(manager: ocp.CheckpointManager, like: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint and its count; 0 and ``like`` itself if there is none.

    Args:
      manager: from ``open_checkpoints``.
      like: a tree of arrays of the same structure, shapes and shardings.

    Raises:
      RunError: it cannot be read.
    """
    count = manager.latest_step()
    if count is None:
        return 0, like
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        return count, manager.restore(count, args=ocp.args.StandardRestore(abstract))
    except Exception as error:  # of many kinds and many lines
        logging.debug("restoring a checkpoint", exc_info=error)
        folder = manager.directory
        raise RunError(
            f"checkpoint {folder / str(count)} cannot be read: it is damaged, or of another "
            f"version of the program; remove {folder} to train anew"
        ) from None


def read_newest(workdir: pathlib.Path) -> PyTree:
    """The newest checkpoint of a working directory, of which nothing else has to be known.

    Nothing is written there.

    Args:
      workdir: as for ``open_checkpoints``.

    Returns:
      numpy arrays in lists (which were tuples) and dicts (by field, which were NamedTuples).

    Raises:
      UsageError: there is none.
      RunError: it cannot be read.
    """
    folder = (workdir / "checkpoints").absolute()
    missing = f"{workdir} has no checkpoint; name the folder of a run that has its checkpoints"
    if not folder.is_dir():
        raise UsageError(missing)
    options = ocp.CheckpointManagerOptions(create=False)
    handler = ocp.StandardCheckpointHandler()  # without it, Orbax does not tell what is saved
    with ocp.CheckpointManager(folder, options=options, item_handlers=handler) as manager:
        count = manager.latest_step()
        if count is None:
            raise UsageError(missing)
        try:
            # Only types and shapes matter: no memory is taken for them.
            like = jax.tree.map(
                lambda saved: np.broadcast_to(np.zeros((), saved.dtype), saved.shape),
                manager.item_metadata(count).tree,
            )
            return manager.restore(count, args=ocp.args.StandardRestore(like))
        except Exception as error:  # of many kinds and many lines
            logging.debug("reading a checkpoint", exc_info=error)
            raise RunError(
                f"checkpoint {folder / str(count)} cannot be read: it is damaged; move {workdir} "
                "away and give the command of the run again"
            ) from None
