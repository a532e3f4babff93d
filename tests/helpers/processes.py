"""Runs of several processes on one machine, as SLURM would start them."""

import concurrent.futures
import os
import socket
import subprocess
import sys


def start(arguments, *, count, devices, **options):
    """Starts ``python *arguments`` this many times, each with as many fake devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=shared | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        for index in range(count)
    ]


def finish(processes, timeout=240):
    """Waits for all; their exit statuses and outputs."""
    try:
        # All at once: one whose output nobody reads may wait with it, and the others for that one.
        with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
            read = lambda process: process.communicate(timeout=timeout)[0]  # noqa: E731
            outputs = list(pool.map(read, processes))
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs
