"""The first three methods of the comparison on digits over ten seeds that decided nothing.

  python -m launch.local experiments/sweeps/digits_seeds.py runs/digits_seeds --parallel=2
  python -m experiments.report runs/digits_seeds --out=report

How far the three seeds of experiments/sweeps/digits.py can be trusted. Thirty runs, about ten
minutes on two CPU cores; offline.
"""

from experiments.sweeps import digits

SCRIPT = digits.SCRIPT


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed in range(10, 20):
        for method in digits.METHODS[:3]:
            yield {**method, "seed": seed, "granularity": "filter"}
