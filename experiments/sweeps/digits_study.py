"""Five regularisers on digits, five seeds each, with every recovery that needs no training.

  python -m launch.local experiments/sweeps/digits_study.py runs/digits_study --parallel=2
  python -m experiments.report runs/digits_study --out=runs/digits_study/report

25 runs, a minute each on two CPU cores; offline. The strengths were searched with the same budget,
see experiments/sweeps/digits_tuning.py.
"""

import itertools

SCRIPT = "experiments.run"
METHODS = (
    {"noise": "none"},
    {"noise": "dropout", "rate": 0.1},
    {"noise": "dropconnect", "rate": 0.1},
    {"noise": "targeted_dropout", "rate": 0.15},
    {"noise": "batch_bridgeout", "rate": 0.3},
)
SEEDS = range(5)
RECOVERIES = "none,batch_norm,bias,least_squares"


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed, method in itertools.product(SEEDS, METHODS):
        yield {**method, "seed": seed, "recovery": RECOVERIES}
