"""The committed source of a sweep's script, copied: waiting jobs run what was submitted."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
from typing import NamedTuple

from bbo.settings.installed import in_wheel, programs_folder
from bbo.types import UsageError


class Snapshot(NamedTuple):
    """A commit, where it is checked out and where its copy lies or will lie."""

    root: pathlib.Path
    commit: str
    folder: pathlib.Path


def plan(script: str, src: pathlib.Path) -> Snapshot:
    """The snapshot of a script's source; writes nothing.

    Args:
      script: a module; what is copied is the folder from which it is imported.
      src: the folder of snapshots.

    Raises:
      UsageError: the source is not in a git checkout, or not as committed.
    """
    root = _root(script)
    if in_wheel() and root == programs_folder():
        raise UsageError(
            f"--snapshot copies a checkout, and {script} is part of the installed package, which "
            "stays as it is until it is installed anew; leave --snapshot out"
        )
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    _git(root, "ls-files", "--error-unmatch", f"{script.replace('.', '/')}*")
    if changed := _git(root, "status", "--porcelain", "--untracked-files=no", "."):
        names = ", ".join(line[3:] for line in changed.decode().splitlines())
        raise UsageError(f"--snapshot copies what is committed, and {names} changed: commit first")
    return Snapshot(root, commit, src / commit[:10])


def _root(script: str) -> pathlib.Path:
    """The folder from which a module is imported."""
    top = importlib.util.find_spec(script.partition(".")[0])
    if top and top.submodule_search_locations:
        return pathlib.Path(next(iter(top.submodule_search_locations))).parent
    if top and top.origin and top.has_location:
        return pathlib.Path(top.origin).parent
    raise UsageError(f"--snapshot: the source of {script} is not found")


def write(snapshot: Snapshot) -> None:
    """Copies the source, whole or not at all, with the full name of the commit in ``COMMIT``.

    Raises:
      UsageError: it cannot be written.
    """
    if snapshot.folder.exists():
        return
    archive = _git(snapshot.root, "archive", snapshot.commit)
    temporary = snapshot.folder.with_name(f".{snapshot.folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", temporary], input=archive, check=True)
        (temporary / "COMMIT").write_text(snapshot.commit + "\n", encoding="utf-8")
        temporary.rename(snapshot.folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"--snapshot cannot write {snapshot.folder}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _git(root: pathlib.Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True)
    except FileNotFoundError:
        raise UsageError("--snapshot needs git, which is not found") from None
    if done.returncode:
        raise UsageError(f"--snapshot of {root}: {done.stderr.decode()}")
    return done.stdout
