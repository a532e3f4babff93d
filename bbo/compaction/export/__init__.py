"""Networks as files: for jax alone (StableHLO), for other runtimes (ONNX), and as plain arrays."""

from bbo.compaction.export.checking import Check
from bbo.compaction.export.onnx import write_onnx
from bbo.compaction.export.saved import load_network, save_network
from bbo.compaction.export.stablehlo import write_stablehlo

__all__ = ["Check", "load_network", "save_network", "write_onnx", "write_stablehlo"]
