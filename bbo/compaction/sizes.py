"""What is left of each array of a program when channels are removed."""

from typing import Any, NamedTuple

import numpy as np

from bbo.compaction.channels import Channels, Cut
from bbo.compaction.tracing.flow.positions import shape_of


class Sizes(NamedTuple):
    """What is left of a program."""

    found: Channels
    removed: np.ndarray
    """bool, by label."""

    def kept(self, ref: int, axis: int) -> np.ndarray:
        """bool [positions]."""
        return ~self.removed[self.found.labels[self.found.traced.arrays.nodes[ref][axis]]]

    def is_whole(self, ref: int) -> bool:
        """Whether nothing is removed of an array."""
        return all(self.kept(ref, axis).all() for axis in range(len(self.shape(ref))))

    def shape(self, ref: int) -> tuple[Any, ...]:
        """Of an array, with what is left of each axis."""
        full = shape_of(self.found.traced.arrays.avals[ref])
        return tuple(
            int(self.kept(ref, axis).sum()) if isinstance(size, int) else size
            for axis, size in enumerate(full)
        )


def sizes_of(found: Channels, cut: Cut) -> Sizes:
    """The sizes that a cut leaves."""
    removed = np.zeros(int(found.labels.max(initial=0)) + 1, bool)
    for (name, axis), positions in cut.items():
        nodes = found.traced.arrays.nodes[found.traced.names.index(name)][axis]
        removed[found.labels[nodes[positions]]] = True
    return Sizes(found, removed)
