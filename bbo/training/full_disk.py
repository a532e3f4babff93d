"""A disk that takes no more, while checkpoints and events are written by threads behind."""

import contextlib
import logging
import pathlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bbo.files import FULL
from bbo.types import RunError

TEXTS = ("No space left on device", "Disk quota exceeded", "Read-only file system")
"""What ``FULL`` says in words: other libraries hand on no numbers."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a disk that takes no more."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(text in str(error) for text in TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def one_line_when_full(folder: pathlib.Path) -> Iterator[None]:
    """Within this context a full disk is one error, whatever thread meets it first.

    What threads would log about it, hundreds of lines, is left out.

    Raises:
      RunError: the disk of ``folder`` is full; what was saved before is whole.
    """
    threads, others = threading.excepthook, sys.unraisablehook

    def excepthook(told: Any) -> None:
        if not is_full(told.exc_value):
            threads(told)

    def unraisablehook(told: Any) -> None:
        # What TensorStore has still to say to a save that was given up.
        if "Event loop is closed" not in str(told.exc_value):
            others(told)

    def is_other(record: logging.LogRecord) -> bool:
        said = any(text in record.getMessage() for text in TEXTS)
        return not said and not (record.exc_info and is_full(record.exc_info[1]))

    threading.excepthook, sys.unraisablehook = excepthook, unraisablehook
    logger = logging.getLogger("absl")  # Orbax's
    logger.addFilter(is_other)
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise RunError(
            f"the disk of {folder} takes no more; what was saved before is whole: make space, and "
            "the same command goes on from there"
        ) from None
    finally:
        threading.excepthook, sys.unraisablehook = threads, others
        logger.removeFilter(is_other)
