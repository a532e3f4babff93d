"""Whether a run has the memory that it needs at least, asked before any is taken."""

import resource

from bbo.settings.sections import DataConfig
from bbo.settings.tfds_folder import image_bytes
from bbo.types import UsageError

PROGRAM = 2_200_000_000
"""Bytes of addresses that jax and its compiler take for the smallest run, on one core."""
COPIES = 2
"""Of all images: on the host, and on the device."""


def check_memory(config: DataConfig) -> None:
    """Checks the limit that a shell sets by ``ulimit -v``, where the libraries would just crash.

    Raises:
      UsageError: it is too low for these images, even for a small network.
    """
    needed = PROGRAM + COPIES * image_bytes(config)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise UsageError(
            f"{config.dataset} needs {needed / 1e9:.1f} GB of memory at least, and the limit here "
            f"is {limit / 1e9:.1f} GB; raise it (ulimit -v), or lift it (ulimit -v unlimited)"
        )
