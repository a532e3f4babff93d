"""What ran: versions, devices, and the commit of the source."""

import contextlib
import importlib.metadata
import itertools
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Sequence
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

STANDARD: dict[str, Any] = {
    "jax_allow_f16_reductions": True,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_custom_prng": False,
    "jax_enable_x64": False,
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_random_seed_offset": 0,
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": True,
}
"""Settings of jax that change what is drawn or computed, as they are in all records that say none.

The variables of the environment are called as they are, in capitals."""
OPTIMISATION: dict[str, Any] = {
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": None,
    "jax_exec_time_optimization_effort": 0.0,
    "jax_optimization_level": "UNKNOWN",
}
"""Likewise those that change how results are rounded."""


def environment() -> dict[str, Any]:
    """What ran: versions, devices and the commit of the source, if it is a git checkout.

    Flags of XLA and unusual settings of jax too, where there are any, as they change results.
    """
    import jax  # Here, so that programs can refuse wrong settings before they load it.

    devices, cores = jax.devices(), usable_cores()
    flags = re.sub(r"[^\s=]*/\S*", "PATH", os.environ.get("XLA_FLAGS", "").strip())
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}, {len(cores)} CPU cores",
        "processor": processor_model(),
        "affinity": ranges(cores),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "commit": source_commit(),
        **({"xla_flags": flags} if flags else {}),
        **({"jax_settings": settings} if (settings := unusual_settings()) else {}),
    }


def usable_cores() -> list[int]:
    """The cores that this process may use: among so many its work is split, and sums rounded."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in a few words.

    >>> ranges([0, 1, 2, 5, 7, 8]), ranges([3])
    ('0-2,5,7-8', '3')
    """
    parts = []
    for _, of_one in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in of_one]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ",".join(parts)


def processor_model() -> str:
    """The processor by its name, as far as it is told: two kinds round sums in other orders."""
    with contextlib.suppress(OSError):  # not Linux
        info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.*)$", info, re.MULTILINE):
            return " ".join(found[1].split())
    return platform.processor() or platform.machine()


def unusual_settings() -> dict[str, Any]:
    """The settings of jax that change results and are not ``STANDARD``, by name."""
    import jax

    found = {}
    for name, standard in (STANDARD | OPTIMISATION).items():
        value = getattr(jax.config, name, standard)
        value = getattr(value, "value", value)  # of an enumeration
        if value != standard:
            found[name] = value
    return found


def source_commit() -> str | None:
    """The commit of the checkout that this file lies in, with ``+`` if it was changed.

    A copy of the source that is no checkout may tell its commit in a file ``COMMIT``.
    """
    root = pathlib.Path(__file__).parents[2]
    if (root / "COMMIT").is_file():
        return (root / "COMMIT").read_text(encoding="utf-8").strip()
    command = ["git", "-C", str(root)]
    try:
        # The folder of an installed package may lie in the checkout of something else.
        known = subprocess.run(
            [*command, "ls-files", "--error-unmatch", "bbo/settings/provenance.py"],
            capture_output=True,
        )
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*command, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    if head.returncode or known.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
