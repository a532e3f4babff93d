"""The search before experiments/sweeps/digits_study.py: four strengths of each regulariser.

  python -m launch.local experiments/sweeps/digits_tuning.py runs/digits_tuning --parallel=2
  python -m experiments.report runs/digits_tuning --out=runs/digits_tuning/report

What is chosen has the largest mean validation accuracy over 0 to 60 % of the filters removed, with
batch_norm recovery, over two seeds. Half a minute a run on two CPU cores; offline.
"""

import itertools

SCRIPT = "experiments.run"
REGULARISERS = ("dropout", "dropconnect", "targeted_dropout", "batch_bridgeout")
RATES = (0.05, 0.1, 0.15, 0.3)
SEEDS = (100, 101)  # none of those that are compared


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed, noise, rate in itertools.product(SEEDS, REGULARISERS, RATES):
        yield {
            "noise": noise,
            "rate": rate,
            "seed": seed,
            "granularity": "filter",
            "sparsities": "0,0.1,0.2,0.3,0.4,0.5,0.6",
            "recovery": "batch_norm",
        }
