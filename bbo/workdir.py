"""The folder a run leaves behind: whose it is, whether it is finished, and whole files only."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any

from bbo import config as configs
from bbo.config import ExperimentConfig
from bbo.types import UsageError

PLACES = ("data_dir", "cache_dir")
"""Settings that say where things lie, not what a run is."""
LOCK = ".lock"
"""A file that is locked by the process that works in the folder."""
LOCK_SECONDS = 5
"""How long to wait for another process to leave a folder."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all: under another name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else the name may be on the disk before the text
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, record: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(record, indent=2) + "\n")


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, none if it is absent; up to one cut short by a crash."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_lines(path: pathlib.Path, records: Iterable[Any]) -> None:
    """Writes JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def default_workdir(config: ExperimentConfig) -> pathlib.Path:
    """A folder of its own for every configuration, so that no two runs meet."""
    settings = configs.to_json(configs.override(config, **dict.fromkeys(PLACES, "")))
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
        held = json.loads(record.read_text(encoding="utf-8"))["config"]
        # Through the dataclasses: a setting that is newer than the run has its default there.
        held = configs.to_json(configs.from_json(held))
        changed = _differences(held, configs.to_json(config))
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
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    environments = held.get("environments", [])
    if now not in environments[-1:]:
        environments = [*environments, now]
    write_json(path, {"config": configs.to_json(config), "environments": environments})


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
        raise UsageError(f"workdir {workdir} cannot be made or written: {error.strerror}") from None
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


def is_finished(workdir: pathlib.Path) -> bool:
    """Whether the run in this folder has come to its end: ``summary.json`` is written last."""
    return (workdir / "summary.json").exists()


def environment() -> dict[str, Any]:
    """What ran: versions, devices and the commit of the source, if it is a git checkout.

    Flags of XLA too, where there are any, as they change how results are rounded.
    """
    import jax  # Here, so that programs can refuse wrong settings before they load it.

    devices = jax.devices()
    flags = re.sub(r"[^\s=]*/\S*", "PATH", os.environ.get("XLA_FLAGS", "").strip())
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "commit": source_commit(),
        **({"xla_flags": flags} if flags else {}),
    }


def source_commit() -> str | None:
    """The commit of the checkout that this file lies in, with ``+`` if it was changed.

    A copy of the source that is no checkout may tell its commit in a file ``COMMIT``.
    """
    root = pathlib.Path(__file__).parents[1]
    if (root / "COMMIT").is_file():
        return (root / "COMMIT").read_text(encoding="utf-8").strip()
    command = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
