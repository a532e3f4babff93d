"""Files written whole or not at all, and records of JSON lines."""

import errno
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What a disk says that takes no more."""


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


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, none if it is absent; up to one cut short by a crash."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(parse_json(line))
        except ValueError:
            break
    return records


def write_lines(path: pathlib.Path, records: Iterable[Any]) -> None:
    """Writes JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))
