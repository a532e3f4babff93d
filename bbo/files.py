"""Files written whole or not at all, records of JSON lines, and digests that tell of damage."""

import errno
import hashlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What a disk says that takes no more."""
SEALED = re.compile(r', "([^"]*)": "([0-9a-f]{16})"}$')
"""The end of a line with a digest, and its two texts."""


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


def json_text(record: Any) -> str:
    """Indented JSON."""
    return json.dumps(record, indent=2) + "\n"


def write_json(path: pathlib.Path, record: Any) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json_text(record))


def parse_json(text: str | bytes) -> Any:
    """As ``json.loads``, but what is nested too deeply is a ValueError too.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sealed(record: Mapping[str, Any]) -> str:
    """A JSON line whose last entry is a digest of the others.

    >>> sealed({"epoch": 1})
    '{"epoch": 1, "digest": "becef8ff3d5edb2b"}'
    """
    text = json.dumps(record)
    return f'{text[:-1]}, "digest": "{_short(text)}"}}'


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unsealed(line: bytes) -> dict[str, Any]:
    """The record of a line, with a digest or from before there were some.

    Raises:
      ValueError: it is damaged, or no record.
    """
    text = line.decode()
    end = SEALED.search(text)
    # By its shape: where the name of the digest is damaged, the line is not one without.
    if end and (end[1] != "digest" or end[2] != _short(text := text[: end.start()] + "}")):
        raise ValueError("its digest is that of another text")
    record = parse_json(text)
    if not isinstance(record, dict) or "digest" in record:
        raise ValueError("it is no record")
    return record


def read_lines(path: pathlib.Path, *, strict: bool = False) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, none if it is absent.

    What is damaged is left out, with a warning; without one a last line that a crash cut short.

    Args:
      path: of the file, which ``sealed`` or any program wrote.
      strict: raise for a damaged line instead.

    Raises:
      ValueError: with ``strict``; names the line.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_unsealed(line))
        except ValueError as error:
            if number == len(lines):
                break
            if strict:
                raise ValueError(f"line {number} is damaged: {error}") from None
            damaged.append(str(number))
    if damaged:
        logging.getLogger(__name__).warning(
            "%s is damaged: left out line %s", path, ", ".join(damaged)
        )
    return records


def write_lines(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines with digests, whole or not at all."""
    write_text(path, "".join(sealed(record) + "\n" for record in records))


def digest_of_arrays(arrays: Mapping[str, Any]) -> str:
    """A SHA-256 over names, dtypes, shapes and bits of numpy arrays, whatever their order."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


SUMS = "SHA256SUMS"
"""A file of digests, as ``sha256sum --check`` reads it."""


def sums_of(folder: pathlib.Path, names: Iterable[str], **texts: str) -> str:
    """The text of a ``SHA256SUMS``.

    Args:
      folder: of the files.
      names: of those that are there.
      texts: of those that are not there yet, by name.
    """
    contents = {name: (folder / name).read_bytes() for name in names}
    contents |= {name: text.encode() for name, text in texts.items()}
    lines = (f"{hashlib.sha256(x).hexdigest()}  {name}\n" for name, x in contents.items())
    return "".join(lines)


def changed_files(folder: pathlib.Path, needed: Iterable[str]) -> list[str] | None:
    """The files that are not what the ``SHA256SUMS`` beside them says; None if there is none.

    Args:
      folder: where they are.
      needed: names that have to be in it.
    """
    if not (folder / SUMS).exists():
        return None
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    digests = {name: digest for digest, _, name in (x.partition("  ") for x in text.splitlines())}
    outside = [name for name in digests if {"/", "..", ""} & {*pathlib.PurePath(name).parts, name}]
    if set(needed) - digests.keys() or outside:  # a line that names no file of the folder
        return [SUMS]
    return [name for name, digest in digests.items() if _sum(folder / name) != digest]


def _sum(path: pathlib.Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):  # a name with a NUL, of a damaged line
        return ""


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames what is damaged, to ``name_aside``."""
    return path.rename(name_aside(path))


def name_aside(path: pathlib.Path) -> pathlib.Path:
    """``<name>.damaged`` beside a file, or the next of that name that is free."""
    free = path.with_name(f"{path.name}.damaged")
    number = 2
    while free.exists():
        free, number = path.with_name(f"{path.name}.damaged{number}"), number + 1
    return free
