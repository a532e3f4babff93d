"""What is set before jax is loaded: where compiled programs are kept, faster CPU code, and numbers.

What the user has set of the first two holds. But what is drawn and computed is the same wherever a
run is done, and goes on: settings of jax by which it would not be are taken out of the environment.
Programs are found again by the next run of the same settings, and by one that goes on;
``JAX_ENABLE_COMPILATION_CACHE=false`` keeps none.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import sys

from bbo.files import parse_json, write_json
from bbo.settings.provenance import STANDARD

HOME = pathlib.Path("~/.cache/bbo")
FUSIONS = "--xla_cpu_experimental_ynn_fusion_type=dot,eltwise,reduce"
"""Convolutions and products with what surrounds them; by default each is fused alone, if at all."""
PROBE_SECONDS = 60
QUIET = (0, 10, 2)
"""The first jaxlib that reads programs for CPUs with AVX-512 without an error message for each."""


def prepare(*, fusions: bool, distributed: bool = False) -> None:
    """Sets what is for the better in the environment, for a jax that is not loaded yet.

    Args:
      fusions: whether to ask for ``FUSIONS``; they change how results are rounded.
      distributed: whether this is one process of many.
    """
    if "jax" in sys.modules:
        return
    _standard_numbers()
    # Only the first process would write. If the folder is not one of all, it alone finds programs
    # again; and where GPUs share the search for the best kernels, the others would wait for it.
    if not distributed:
        _keep_programs()
    if fusions:
        _set_fusions()


def _standard_numbers() -> None:
    """Takes out of the environment what would draw or compute other numbers; says so."""
    words = dict.fromkeys(("y", "yes", "t", "true", "on", "1"), True)
    words |= dict.fromkeys(("n", "no", "f", "false", "off", "0"), False)
    for name, standard in STANDARD.items():
        given = os.environ.pop(name.upper(), "")
        is_standard = words.get(given.lower(), given) == standard or given == str(standard)
        if given and not is_standard:
            told = f"{name.upper()}={given} is not used: results would be others than recorded ones"
            print(told, file=sys.stderr)


def _keep_programs() -> None:
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = _folder("compiled", _machine()) if _version() >= QUIET else None
        if folder is None:
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # All of them: those that compile in less than a second add up.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _machine() -> str:
    """Alike on machines that can share compiled programs; homes lie on file servers.

    They hold instructions of this CPU, and split the work among as many cores as there were:
    neither is in the key by which jax finds them.
    """
    try:
        info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        features = re.findall(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)[0]
    except (OSError, IndexError):  # not Linux
        features = platform.node()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    described = (platform.machine(), sorted(features.split()), cores, os.environ.get("NPROC"))
    return hashlib.sha256(repr(described).encode()).hexdigest()[:8]


def _folder(*parts: str) -> pathlib.Path | None:
    """A folder in the user's home, made if need be; None if that cannot be written."""
    try:
        folder = HOME.expanduser().joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _set_fusions() -> None:
    flags = os.environ.get("XLA_FLAGS", "").strip()
    named = FUSIONS.partition("=")[0] in flags
    # What does not begin with a dash is the name of a file with flags.
    if not named and (not flags or flags.startswith("-")) and _is_for_cpu() and _knows(FUSIONS):
        os.environ["XLA_FLAGS"] = f"{flags} {FUSIONS}".strip()


def _is_for_cpu() -> bool:
    """Whether jax will choose the CPU.

    The plugins of GPUs and TPUs read the same flags. One that is not of the age of jaxlib may not
    know them, and end the process.
    """
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = [name for name in ("jax_plugins", "libtpu") if importlib.util.find_spec(name)]
    return not plugins and not importlib.metadata.entry_points(group="jax_plugins")


def _version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", importlib.metadata.version("jaxlib"))[:3]))


def _knows(flag: str) -> bool:
    """Whether this jaxlib knows a flag: another process tries, as an unknown one would end this.

    The answer is kept, so that it costs nothing from the second time on.
    """
    folder = _folder("xla_flags")
    kept = folder and folder / f"jaxlib-{importlib.metadata.version('jaxlib')}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if kept:
            return bool(parse_json(kept.read_text(encoding="utf-8"))[flag])
    done = _try(flag)
    # Anything else that goes wrong, such as too little memory, says nothing about the flag.
    if kept and done is not None and (done.returncode == 0 or flag in done.stderr):
        with contextlib.suppress(OSError):
            write_json(kept, {flag: done.returncode == 0})
    return done is not None and done.returncode == 0


def _try(flag: str) -> subprocess.CompletedProcess | None:
    settings = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    try:
        return subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
