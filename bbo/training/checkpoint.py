"""Checkpoints of a run, through Orbax; the newest two are kept, each with a digest."""

import functools
import inspect
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from bbo import trees
from bbo.files import digest_of_arrays, parse_json, set_aside
from bbo.training.devices import agreed, in_all_processes, is_first_process
from bbo.types import PyTree, RunError, UsageError

CheckpointManager = ocp.CheckpointManager
DIGEST = "sha256"
"""In what Orbax keeps beside the arrays of a checkpoint: over all of them."""


def open_checkpoints(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """The checkpoints of a working directory, written in the background.

    In a run of many processes all of them open, save and restore together.

    Args:
      workdir: they lie in its folder ``checkpoints``.

    Raises:
      RunError: there are some, and what is with their arrays is damaged, of all.
    """
    folder = (workdir / "checkpoints").absolute()
    # Orbax ends in an error of its own where one of them is not described as it should be.
    found = sorted(path for path in folder.glob("*") if path.name.isdigit())
    damaged = [path for path in found if not _is_described(path)]
    if agreed(bool(damaged)) and agreed(len(damaged) == len(found)):
        raise _unreadable(damaged)
    _set_aside(damaged)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager(folder, options=options)


def save(manager: ocp.CheckpointManager, count: int, tree: PyTree) -> None:
    """Saves a tree of arrays.

    Args:
      manager: from ``open_checkpoints``.
      count: of the work done, larger than at the last checkpoint. In a run of many processes it
        is the count of the last poll, because Orbax asks for preemption with it.
      tree: the same in every process, on all devices.
    """
    # A copy, because it is written in the background while the next step may reuse the memory.
    copied = jax.tree.map(jnp.copy, tree)
    digest = {DIGEST: _digest(copied)}
    manager.save(count, args=ocp.args.StandardSave(copied), force=True, custom_metadata=digest)
    if jax.distributed.is_initialized():
        # Orbax asks jax with this count once more at the end, in a thread of the first process:
        # after a larger one that would make the processes disagree about where to stop.
        manager.wait_until_finished()


def _digest(tree: PyTree) -> str:
    return digest_of_arrays(jax.tree.map(np.asarray, trees.flatten(tree)))


def newest(manager: ocp.CheckpointManager) -> pathlib.Path | None:
    """The folder of the newest checkpoint, if there is one."""
    count = manager.latest_step()
    return None if count is None else pathlib.Path(manager.directory) / str(count)


def go_back(managers: Sequence[ocp.CheckpointManager]) -> bool:
    """Removes the checkpoints that only some of several runs have, of runs trained together.

    A run that is ended while it saves leaves some of them with one checkpoint more. What is
    removed is made again; each run loses one checkpoint at most.

    Args:
      managers: from ``open_checkpoints``, of each run.

    Returns:
      whether some have been removed, so that the newest is the same of all, or all have none; not
      if a run would lose more: then they have not been trained together.
    """
    found = [set(manager.all_steps()) for manager in managers]
    common = max(set.intersection(*found), default=0)
    newer = [{count for count in counts if count > common} for counts in found]
    if any(len(counts) > 1 for counts in newer):
        return False
    for manager, counts in zip(managers, newer, strict=True):
        for count in counts:
            manager.delete(count)
    return any(newer)


def restore_newest(manager: ocp.CheckpointManager, like: PyTree) -> tuple[int, PyTree]:
    """The newest checkpoint that is whole, and its count; 0 and ``like`` itself if there is none.

    One that any of the processes cannot read is whole for none. Newer ones that are damaged are set
    aside: renamed, with a warning.

    Args:
      manager: from ``open_checkpoints``.
      like: a tree of arrays of the same structure, shapes and shardings.

    Raises:
      RunError: there are some, and none can be read; they are left as they are.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    folder, damaged = pathlib.Path(manager.directory), []
    counts = sorted(manager.all_steps(), reverse=True)
    for count in counts:
        restore = functools.partial(manager.restore, args=ocp.args.StandardRestore(abstract))
        tree = _attempt(folder / str(count), restore)
        if in_all_processes(tree is not None):
            _set_aside(damaged)
            manager.reload()
            return count, tree
        damaged.append(folder / str(count))
    if not counts:
        return 0, like
    raise _unreadable(damaged)


def _attempt(path: pathlib.Path, read: Callable[[int], PyTree]) -> PyTree | None:
    """The arrays of a checkpoint; None if they cannot be read, or are not those that were saved.

    Args:
      path: of the checkpoint, called by its count.
      read: gives its arrays.
    """
    try:
        told = _told(path)
        tree = read(int(path.name))
        _check(tree, told)
    except Exception as error:  # of many kinds and many lines
        logging.debug("reading a checkpoint", exc_info=error)
        _let_coroutines_go()
        return None
    return tree


@functools.cache
def _let_coroutines_go() -> None:
    """From now on those that Orbax abandons, where one of them fails, go in silence.

    They would print their errors, of sixty lines each, whenever they are collected.
    """
    others = sys.unraisablehook

    def told(left: Any) -> None:
        if inspect.iscoroutine(left.object):
            logging.debug("a coroutine that was left: %s", left.exc_value)
        else:
            others(left)

    sys.unraisablehook = told


def _unreadable(damaged: list[pathlib.Path]) -> RunError:
    names = " and ".join(map(str, damaged))
    return RunError(
        f"checkpoint {names} cannot be read: damaged, or of another version of the program; "
        f"remove {damaged[0].parent} to train anew"
    )


def _set_aside(damaged: list[pathlib.Path]) -> None:
    for path in damaged if is_first_process() else ():
        kept = set_aside(path)
        logging.warning(
            "checkpoint %s is damaged: set aside as %s, going on from the one before",
            *(path, kept.name),
        )
    agreed(1)  # none of the processes looks before all has been renamed


def _is_described(folder: pathlib.Path) -> bool:
    try:
        _told(folder)
    except (ValueError, OSError):
        return False
    return True


def _told(folder: pathlib.Path) -> str | None:
    """The digest that a checkpoint has with it; None of one from before there were some.

    Raises:
      ValueError, OSError: what is with it is damaged.
    """
    record = parse_json((folder / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not isinstance(record.get("commit_timestamp_nsecs"), int):
        raise ValueError("it is not described as Orbax does")
    told = record.get("custom_metadata") or {}
    if not isinstance(told, dict) or (told and not isinstance(told.get(DIGEST), str)):
        raise ValueError("it has something other than a digest")
    return told.get(DIGEST)


def _check(tree: PyTree, told: str | None) -> None:
    """Raises ValueError if the arrays have another digest."""
    if told is not None and _digest(tree) != told:
        raise ValueError("the arrays are not those that were saved")


def read_newest(workdir: pathlib.Path) -> PyTree:
    """The newest checkpoint of a working directory, of which nothing else has to be known.

    Nothing is written there.

    Args:
      workdir: as for ``open_checkpoints``.

    Returns:
      numpy arrays in lists (which were tuples) and dicts (by field, which were NamedTuples).

    Raises:
      UsageError: there is none.
      RunError: it cannot be read, or its arrays are not those that were saved.
    """
    folder = (workdir / "checkpoints").absolute()
    missing = f"{workdir} has no checkpoint; name the folder of a run that has its checkpoints"
    if not folder.is_dir():
        raise UsageError(missing)
    counts = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not counts:
        raise UsageError(missing)
    count = max(counts)
    tree = _attempt(folder / str(count), functools.partial(_read, folder))
    if tree is None:
        raise RunError(
            f"checkpoint {folder / str(count)} cannot be read: it is damaged; move {workdir} "
            "away and give the command of the run again"
        )
    return tree


def _read(folder: pathlib.Path, count: int) -> PyTree:
    options = ocp.CheckpointManagerOptions(create=False)
    handler = ocp.StandardCheckpointHandler()  # without it, Orbax does not tell what is saved
    with ocp.CheckpointManager(folder, options=options, item_handlers=handler) as manager:
        # Only types and shapes matter: no memory is taken for them.
        like = jax.tree.map(
            lambda saved: np.broadcast_to(np.zeros((), saved.dtype), saved.shape),
            manager.item_metadata(count).tree,
        )
        return manager.restore(count, args=ocp.args.StandardRestore(like))
