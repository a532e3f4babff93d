"""Checkpoints of a run, one per epoch kept, through Orbax."""

import pathlib

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from bbo.types import PyTree


def open_checkpoints(workdir: pathlib.Path, *, every: int) -> ocp.CheckpointManager:
    """The checkpoints of a working directory: the newest is kept, written in the background.

    Args:
      workdir: they lie in its folder ``checkpoints``.
      every: epochs between checkpoints; the first epoch of all is saved too.
    """
    options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=1)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def save(manager: ocp.CheckpointManager, epoch: int, tree: PyTree, *, last: bool = False) -> None:
    """Saves a tree of arrays as that of ``epoch``, if its turn has come or it is the last."""
    if not (last or manager.should_save(epoch)):
        return
    # A copy, because it is written in the background while the next step may reuse the memory.
    tree = jax.tree.map(jnp.copy, tree)
    manager.save(epoch, args=ocp.args.StandardSave(tree), force=True)


def restore_newest(manager: ocp.CheckpointManager, like: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint and its epoch; epoch 0 and ``like`` itself if there is none.

    Args:
      manager: from ``open_checkpoints``.
      like: a tree of arrays of the same structure, shapes and shardings.
    """
    epoch = manager.latest_step()
    if epoch is None:
        return 0, like
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return epoch, manager.restore(epoch, args=ocp.args.StandardRestore(abstract))
