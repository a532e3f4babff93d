"""Channels of any JAX function, read off its jaxpr, and the exact removal of dead ones."""

from bbo.compaction.channels import Channels, Cut, Group, cut_of, find_channels
from bbo.compaction.cost import count_macs
from bbo.compaction.kernels import Kernel, find_kernels
from bbo.compaction.removal import Compact, compact, dead_channels, rounded, shares_left, smaller
from bbo.compaction.report import Report
from bbo.compaction.staying import Staying

__all__ = [
    "Channels",
    "Compact",
    "Cut",
    "Group",
    "Kernel",
    "Report",
    "Staying",
    "compact",
    "count_macs",
    "cut_of",
    "dead_channels",
    "find_channels",
    "find_kernels",
    "rounded",
    "shares_left",
    "smaller",
]
