"""What a launcher tells: lines that stay and, on a terminal, below them some that are redrawn.

All goes to stderr. Nothing is kept between calls: after a drawing the cursor is on its first line,
so that whatever is written next erases it.
"""

import contextlib
import datetime
import os
import re
import sys
from collections.abc import Sequence

ERASE_BELOW = "\r\x1b[J"


def say(text: str) -> None:
    """Writes a line that stays."""
    with _perhaps_gone():
        sys.stderr.write((ERASE_BELOW if sys.stderr.isatty() else "") + text + "\n")
        sys.stderr.flush()


def draw(lines: Sequence[str]) -> None:
    """Shows lines in place of those drawn before, if stderr is a terminal."""
    with _perhaps_gone():
        if sys.stderr.isatty():
            columns, rows = os.get_terminal_size(sys.stderr.fileno())
            sys.stderr.write(drawing(lines, columns or 80, rows or 24))
            sys.stderr.flush()


def drawing(lines: Sequence[str], columns: int, rows: int) -> str:
    r"""What to write so that lines are shown and the cursor is on the first of them.

    They are cut to the size of the terminal, as a line that wraps would take two.

    >>> drawing(["one", "two and more"], columns=8, rows=24)
    '\r\x1b[Jone\ntwo and\n\x1b[2A'
    """
    shown = [re.sub(r"[\x00-\x1f\x7f]", " ", line)[: columns - 1] for line in lines][: rows - 1]
    return ERASE_BELOW + "".join(line + "\n" for line in shown) + f"\x1b[{len(shown)}A"


def duration(seconds: float) -> str:
    """Seconds as people write them.

    >>> duration(3725.4)
    '1:02:05'
    """
    return str(datetime.timedelta(seconds=int(seconds)))


def _perhaps_gone() -> contextlib.AbstractContextManager[None]:
    """What a launcher has to do does not depend on a terminal, which may have been closed."""
    return contextlib.suppress(OSError)
