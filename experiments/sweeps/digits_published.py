"""The runs of digits_study.py, with the paper's meaning of pruning.

  python -m launch.local experiments/sweeps/digits_published.py runs/digits_published --parallel=2
  python -m experiments.report runs/digits_published --out=runs/digits_published/report

A pruned filter keeps the scale and shift of its norm, so that its channel emits a constant. 25
runs, half a minute each on two CPU cores; offline.
"""

from experiments.sweeps import digits_study

SCRIPT = digits_study.SCRIPT


def runs():
    """Flags of each run."""
    for flags in digits_study.runs():
        yield {**flags, "meaning": "published", "recovery": "none,batch_norm"}
