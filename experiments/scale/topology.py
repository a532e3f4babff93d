"""TPUs that are not there: libtpu compiles for any pod, by its name.

A pod is a grid of chips, ``v5e:4x4`` one of 16. Each chip is one device, and is linked to its
neighbours along each axis; where an axis is long enough, its ends are joined too.
"""

import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bbo.settings.installed import how_to_install
from bbo.types import UsageError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Only the chips are one process's own.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    # Of this one nothing depends; without it libtpu says that it could not find it out.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    # What was compiled for devices that are not there cannot be read again.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
"""For libtpu not to look for TPUs, and for jax not to keep what it has compiled."""


class Chip(NamedTuple):
    """A kind of TPU."""

    axes: int
    """Of the grid."""
    joined: int
    """The ends of an axis are joined where its length is a multiple of this."""

    @property
    def example(self) -> str:
        """The grid of four chips."""
        return "x".join(("2", "2", "1")[: self.axes])


CHIPS = {"v5e": Chip(2, 16), "v5p": Chip(3, 4), "v6e": Chip(2, 16)}
"""Those of which each chip is one device, and whose peaks are known to ``roofline``."""


class Topology(NamedTuple):
    """A pod, as libtpu calls it."""

    chip: str
    """A key of ``CHIPS``."""
    grid: tuple[int, ...]
    """Chips along each axis."""

    @property
    def name(self) -> str:
        """As it was given."""
        return f"{self.chip}:{'x'.join(map(str, self.grid))}"

    @property
    def size(self) -> int:
        """Chips in all."""
        return math.prod(self.grid)

    @property
    def rings(self) -> int:
        """How many links of a chip an all-reduce can send over at a time, in one direction each.

        Along each axis there is a ring, to and fro; where the ends are joined there are two, one
        in each direction. Of a chip alone it is 1, over which nothing is sent.

        >>> parse("v5e:4x4").rings, parse("v5e:16x16").rings, parse("v5p:2x2x1").rings
        (2, 4, 2)
        """
        joined = CHIPS[self.chip].joined
        return sum(1 + (length % joined == 0) for length in self.grid if length > 1) or 1


def parse(name: str) -> Topology:
    """A topology of its name.

    Raises:
      UsageError: it is none that is known here.
    """
    chip, _, lengths = name.partition(":")
    axes = CHIPS[chip].axes if chip in CHIPS else 0
    if not re.fullmatch("x".join([r"[1-9]\d*"] * axes) or "(?!)", lengths):
        known = ", ".join(f"{chip}:{of.example}" for chip, of in CHIPS.items())
        raise UsageError(f"topology has {name!r}; give a chip and its grid, as in {known}")
    return Topology(chip, tuple(map(int, lengths.split("x"))))


def check(names: Sequence[str]) -> list[Topology]:
    """The topologies of these names, by chip and size; jax need not be loaded.

    Raises:
      UsageError: one is not known, or libtpu is not installed.
    """
    found = sorted({parse(name) for name in names}, key=lambda one: (one.chip, one.size, one.grid))
    if found and not importlib.util.find_spec("libtpu"):
        raise UsageError(f"topology needs libtpu: {how_to_install('libtpu')}")
    return found


def prepare() -> None:
    """Sets the environment for ``devices``, before jax is loaded.

    Raises:
      UsageError: it is loaded.
    """
    if "jax" in sys.modules:
        raise UsageError("topology has to be prepared before jax is loaded; use a new process")
    os.environ.update(ENVIRONMENT)


def devices(topology: Topology) -> list:
    """Devices of jax to compile for.

    Raises:
      UsageError: libtpu does not know this topology.
    """
    import jax
    from jax.experimental import topologies

    # A host has 2x2 chips, unless told otherwise.
    alone = {"chips_per_host_bounds": (1, 1, 1)} if topology.size == 1 else {}
    try:
        return topologies.get_topology_desc(topology.name, platform="tpu", **alone).devices
    except jax.errors.JaxRuntimeError as error:
        raise UsageError(f"topology has {topology.name!r}, but libtpu says: {error}") from None
