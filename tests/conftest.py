"""Fixtures of all tests: several fake devices, and the folder of recorded values."""

import os
import pathlib

# Before jax is imported: a CPU that looks like eight devices, so that sharding is really tested.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of recorded values and data that lies beside a developer's checkout."""
    path = pathlib.Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs the recorded values beside the checkout")
    return path
