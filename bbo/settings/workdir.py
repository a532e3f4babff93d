"""The folder a run leaves behind: whose it is, who works in it, and whether it is finished."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from bbo.files import changed_files, parse_json, write_json
from bbo.settings.config import ExperimentConfig, from_json, override, to_json
from bbo.settings.provenance import environment
from bbo.types import UsageError

PLACES = ("data_dir", "cache_dir")
"""Settings that say where things lie, not what a run is."""
RECORDS = ("config.json", "curve.csv", "summary.json")
"""What a finished run has."""
LOCK = ".lock"
"""A file that is locked by the process that works in the folder."""
LOCK_SECONDS = 5
"""How long to wait for another process to leave a folder."""


def default_workdir(config: ExperimentConfig) -> pathlib.Path:
    """A folder of its own for every configuration, so that no two runs meet."""
    settings = to_json(override(config, **dict.fromkeys(PLACES, "")))
    record = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256(record.encode()).hexdigest()[:8]
    name = f"{config.data.dataset}_{config.model.model}_{config.noise.noise}_{digest}"
    return pathlib.Path("runs") / name


def claim(workdir: pathlib.Path, config: ExperimentConfig) -> None:
    """Checks that a folder may hold this run; writes nothing.

    Raises:
      UsageError: it is not a folder, cannot be written, or holds something else: another
        configuration (the message names the settings that differ) or files of no run.
    """
    try:
        _check_place(workdir)
    except OSError as error:  # for instance below a folder that is closed to this user
        reason = f"{error.strerror} ({error.filename})"
        raise UsageError(f"workdir {workdir} cannot be used: {reason}; name another") from None
    record = workdir / "config.json"
    if not record.exists():
        return
    try:
        held = parse_json(record.read_text(encoding="utf-8"))["config"]
        # Through the dataclasses: a setting that is newer than the run has its default there.
        held = to_json(from_json(held))
        changed = _differences(held, to_json(config))
    except (UsageError, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{record} cannot be read as the configuration of a run; name another workdir"
        ) from None
    if changed:
        raise UsageError(
            f"workdir {workdir} holds a run of another configuration ({'; '.join(changed)}); "
            "name another workdir"
        )


def _check_place(workdir: pathlib.Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"workdir {workdir} is a file; name a folder")
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"workdir {workdir} cannot be made: {nearest} is a file; name another")
    if not os.access(nearest, os.W_OK | os.X_OK) and not is_finished(workdir):
        raise UsageError(f"workdir {workdir} cannot be made or written: no permission in {nearest}")
    held = [path.name for path in workdir.iterdir()] if workdir.exists() else []
    # Hidden files do not count: a run killed at its very beginning leaves some.
    if "config.json" not in held and not all(name.startswith(".") for name in held):
        raise UsageError(
            f"workdir {workdir} holds files but no run (no config.json); name another folder"
        )


def _differences(held: dict[str, dict[str, Any]], asked: dict[str, dict[str, Any]]) -> list[str]:
    """What differs, as text; where data lies and is cached does not count."""
    changed = []
    for section, values in asked.items():
        for key, value in values.items():
            old = held[section][key]
            if old != value and key not in PLACES:
                changed.append(f"{key} is {old} there, {value} here")
    return changed


def record_start(workdir: pathlib.Path, config: ExperimentConfig) -> None:
    """Writes ``config.json`` in a folder that is held: the settings, and what runs them.

    A run that goes on under another version, device or commit adds that to the list.
    """
    path, now = workdir / "config.json", environment()
    held = parse_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    environments = held.get("environments", [])
    unlike = [one.get("jax_settings", {}) for one in (*environments[-1:], now)]
    if unlike[0] != unlike[-1]:
        logging.getLogger(__name__).warning(
            "the run goes on under other settings of jax: %s, not %s", *unlike[::-1]
        )
    if now not in environments[-1:]:
        environments = [*environments, now]
    write_json(path, {"config": to_json(config), "environments": environments})


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Makes a folder; within this context no other process, that asks for the same, works there.

    What is locked is the file ``.lock`` in it, which stays: over NFS other machines see the locks
    of files, not those of folders. On file systems without locks it is as if no other did.

    Raises:
      UsageError: the folder cannot be made; another process works there, and goes on to for some
        seconds.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = f"{workdir} cannot be made or written: {error.strerror}"
        raise UsageError(f"{reason}; name another") from None
    try:
        for left in reversed(range(LOCK_SECONDS)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    message = f"another process works in {workdir}; wait for it, or name another"
                    raise UsageError(message) from None
                time.sleep(1)  # it may be about to end
            except OSError:
                break
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def held_for(workdir: pathlib.Path, config: ExperimentConfig) -> Iterator[None]:
    """As ``held``, for a run that is recorded in ``config.json``.

    What was claimed before is asked again: another run may have begun here while this one waited.
    The record of a finished run stays as it is.

    Raises:
      UsageError: as ``held`` and ``claim``.
    """
    with held(workdir):
        claim(workdir, config)
        if not is_finished(workdir):
            record_start(workdir, config)
        yield


def is_finished(workdir: pathlib.Path) -> bool:
    """Whether the run in this folder has come to its end: ``summary.json`` is written last."""
    return (workdir / "summary.json").exists()


def is_done(workdir: pathlib.Path) -> bool:
    """Whether the run is finished, and its files are as it left them, as far as digests tell.

    Of several that were trained as one program and lie in one folder, all have to be. What has no
    digests, as a run of another program or of an earlier version, is taken as it is.
    """
    folders = [workdir, *(workdir / name for name in _members(workdir))]
    return all(is_finished(one) and not changed_files(one, RECORDS) for one in folders)


def _members(workdir: pathlib.Path) -> list[str]:
    """The folders of the runs that were trained as one program, by the summary of them all."""
    try:
        summary = parse_json((workdir / "summary.json").read_bytes())
    except (OSError, ValueError):
        return []
    names = summary.get("runs") if isinstance(summary, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
