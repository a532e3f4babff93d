"""A sweep on this machine, on SLURM, on TPU pods and Kubernetes; needs absl-py, but no jax."""

import importlib.util
import sys

if importlib.util.find_spec("absl") is None:
    print("error: launchers need absl-py; pip install absl-py", file=sys.stderr)
    raise SystemExit(2)
