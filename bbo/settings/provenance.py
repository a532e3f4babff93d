"""What ran: versions, devices, and the commit of the source."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """What ran: versions, devices and the commit of the source, if it is a git checkout.

    Flags of XLA too, where there are any, as they change how results are rounded.
    """
    import jax  # Here, so that programs can refuse wrong settings before they load it.

    devices = jax.devices()
    flags = re.sub(r"[^\s=]*/\S*", "PATH", os.environ.get("XLA_FLAGS", "").strip())
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "commit": source_commit(),
        **({"xla_flags": flags} if flags else {}),
    }


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
