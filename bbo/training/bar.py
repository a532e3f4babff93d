"""Progress bars: live on a terminal, a line now and then in a log."""

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL = 10.0
"""Seconds between updates where nobody watches."""


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """A ``tqdm`` on stderr, redrawn rarely unless that is a terminal."""
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(*args, mininterval=interval, maxinterval=max(interval, 10.0), **options)
