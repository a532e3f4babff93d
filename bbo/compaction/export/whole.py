"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from bbo.types import UsageError


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives another name to write to; the file has its own when all has gone well.

    Raises:
      UsageError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else the name may be on the disk before the content
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; name another") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
