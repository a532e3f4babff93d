"""Fixtures of all tests: several fake devices, recorded values and data."""

import os
import pathlib

# Before jax is imported: a CPU that looks like eight devices, so that sharding is really tested.
# Each holds a thread of XLA's while it waits for the others; with a thread per device and no more,
# programs that are dispatched ahead can wait for ever, and XLA then aborts (jaxlib 0.10).
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "16")

# The tests may be run by a job of SLURM, or in a pod. What they start must not take itself for one.
for name in list(os.environ):
    if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_")) or name == "KUBERNETES_SERVICE_HOST":
        del os.environ[name]

CHECKOUT = pathlib.Path(__file__).parents[1]
# Most of the time of the tests is compilation, often of the same programs; also of the processes
# that they start.
COMPILED = str(CHECKOUT / ".pytest_cache/compiled")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)

# What Hypothesis keeps on the disk.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(CHECKOUT / ".pytest_cache/hypothesis"))

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# Few examples, the same ones each time; `pytest --hypothesis-profile=many` draws 10 000 others.
_SLOW = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
_HOW = {"deadline": None, "database": None, "suppress_health_check": _SLOW}
hypothesis.settings.register_profile("few", max_examples=25, derandomize=True, **_HOW)
hypothesis.settings.register_profile("many", max_examples=10_000, **_HOW)
hypothesis.settings.load_profile("few")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Recorded outputs of the authors' program."""
    return CHECKOUT / "tests/golden"


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of data that lies beside a developer's checkout."""
    path = CHECKOUT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the data beside the checkout")
    return path


@pytest.fixture
def spec(tmp_path):
    """Writes a spec and gives its path."""

    def write(runs, script="held_run"):
        path = tmp_path / "spec.py"
        path.write_text(f"SCRIPT = {script!r}\n\ndef runs():\n    return {runs!r}\n")
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
