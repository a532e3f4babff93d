"""What a referee asks of the study on digits: other ways to choose filters, and small networks.

  python -m launch.local experiments/sweeps/digits_baselines.py runs/digits_baselines --parallel=2
  python -m experiments.report runs/digits_baselines --out=runs/digits_baselines/report

Filters chosen by chance, and by magnitude over all layers at once, beside those chosen by magnitude
within each layer; and networks that were trained from scratch with as few filters as half of the
pruning leaves (--width=0.5). 35 runs, half a minute each on two CPU cores; offline.
"""

import itertools

SCRIPT = "experiments.run"
METHODS = ({"noise": "none"}, {"noise": "batch_bridgeout", "rate": 0.3})
CHOICES = ({}, {"scope": "global"}, {"criterion": "random"})
SMALL = {"noise": "none", "width": 0.5}
SEEDS = range(5)


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed in SEEDS:
        for method, choice in itertools.product(METHODS, CHOICES):
            yield {**method, **choice, "seed": seed, "granularity": "filter"}
        yield {**SMALL, "seed": seed, "granularity": "filter"}
