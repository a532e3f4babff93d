"""A lower limit of a step's time, from what it computes, moves and sends, and what devices can do.

Williams, Waterman, Patterson, "Roofline", Communications of the ACM, 2009.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bbo.compaction.timing import compare_latencies, measure_latency
from bbo.types import require


class Peaks(NamedTuple):
    """What a device can do at most."""

    flops: float
    """Floating-point operations per second (FLOP/s): two for a multiply-add (MAC)."""
    bandwidth: float
    """Bytes per second, in and out of its memory."""
    link: float
    """Bytes per second that it sends to its neighbour in a ring of devices."""
    source: str
    """Where the numbers are from."""
    latency: float = 0.0
    """Seconds that an exchange between all devices takes whatever its size."""
    memory: float = math.inf
    """Bytes that it holds."""


class Prediction(NamedTuple):
    """Seconds of a step, at least."""

    compute: float
    memory: float
    communication: float

    @property
    def step(self) -> float:
        """All together: memory works while the device computes, links before or after."""
        return max(self.compute, self.memory) + self.communication

    @property
    def bound(self) -> str:
        """The field that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


_H100 = "data sheet of the H100 SXM (HBM3, NVLink in one direction, {} products, not sparse)"
_TPU = "data sheet of TPU {} ({}, one direction of one of its {} links, bfloat16 products)"
_TPUS = {  # cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, November 2026
    "tpu_v4": Peaks(275e12, 1.2e12, 50e9, _TPU.format("v4", "HBM2", "six"), memory=32e9),
    "tpu_v5e": Peaks(197e12, 819e9, 50e9, _TPU.format("v5e", "HBM2", "four"), memory=16e9),
    "tpu_v5p": Peaks(459e12, 2765e9, 100e9, _TPU.format("v5p", "HBM2e", "six"), memory=95e9),
    "tpu_v6e": Peaks(918e12, 1600e9, 100e9, _TPU.format("v6e", "HBM", "four"), memory=32e9),
}
DATA_SHEETS: dict[str, dict[str, Peaks]] = {
    # jax multiplies float32 as TF32 on this GPU and as bfloat16 on a TPU, unless told otherwise.
    "h100": {
        "float32": Peaks(494.7e12, 3.35e12, 450e9, _H100.format("TF32"), memory=80e9),
        "bfloat16": Peaks(989.4e12, 3.35e12, 450e9, _H100.format("bfloat16"), memory=80e9),
    },
    **{name: dict.fromkeys(("float32", "bfloat16"), peaks) for name, peaks in _TPUS.items()},
}
"""What manufacturers promise, not what was measured, by the dtype of the computation."""


def predict(
    peaks: Peaks,
    *,
    flops: float,
    bytes_accessed: float,
    sent_bytes: float,
    num_collectives: int,
) -> Prediction:
    """What a step takes at least; libraries reach a part of the peaks.

    Computing takes FLOPs / peak, memory bytes / bandwidth, communication bytes / link + exchanges
    * latency.

    Args:
      peaks: of each device.
      flops: floating-point operations of one device.
      bytes_accessed: read and written by one device.
      sent_bytes: by one device to its neighbour.
      num_collectives: exchanges, one after the other.

    Raises:
      UsageError: a peak is not positive, or the latency is negative.

    >>> peaks = Peaks(flops=10.0, bandwidth=10.0, link=50.0, source="")
    >>> counts = {"flops": 50.0, "bytes_accessed": 20.0, "sent_bytes": 150.0}
    >>> found = predict(peaks, **counts, num_collectives=1)
    >>> found.step, found.bound
    (8.0, 'compute')
    """
    for name in ("flops", "bandwidth", "link"):
        value = getattr(peaks, name)
        require(0 < value < math.inf, f"peak of {name}", value, "a number > 0")
    valid = 0 <= peaks.latency < math.inf
    require(valid, "latency", peaks.latency, "a number of seconds >= 0")
    return Prediction(
        compute=flops / peaks.flops,
        memory=bytes_accessed / peaks.bandwidth,
        communication=sent_bytes / peaks.link + num_collectives * peaks.latency,
    )


def measured_peak_flops(dtype: str, *, size: int = 1024, seconds: float = 1.0) -> float:
    """FLOP/s (twice the MACs per second) of this device on a product of matrices.

    The lower quartile of the times counts: what else the machine does is no part of its peak.

    Args:
      dtype: of the matrices.
      size: their rows and columns.
      seconds: how long is measured.
    """
    matrix = jnp.ones((size, size), dtype)
    latency = measure_latency(jnp.matmul, matrix, matrix, seconds=seconds)
    return 2 * size**3 / latency.low


def measured_bandwidth(*, num_bytes: int = 2**27, seconds: float = 1.0) -> float:
    """Bytes per second, read and written, while this device copies an array (with another sign).

    Args:
      num_bytes: of the array; more than the caches hold.
      seconds: how long is measured.
    """
    copy = jax.jit(lambda x: -x, donate_argnums=0)
    array = jnp.zeros(num_bytes // 4, jnp.float32)

    def call() -> jax.Array:
        # Into the memory that the last one has left: fresh memory is slow at first.
        nonlocal array
        array = copy(array)
        return array

    latency = compare_latencies({"": call}, batch_size=1, seconds=seconds)[""]
    return 2 * num_bytes / latency.low


def measured_peaks(dtype: str, *, seconds: float = 1.0) -> Peaks:
    """Of this device; the link is as fast as its memory, as between devices that share it."""
    bandwidth = measured_bandwidth(seconds=seconds)
    flops = measured_peak_flops(dtype, seconds=seconds)
    return Peaks(
        flops, bandwidth, bandwidth, "measured on this device, with a link like its memory"
    )
