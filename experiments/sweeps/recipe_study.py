"""Prune once, to any size: the recipe and its rivals on CIFAR-10 at 16x16, six seeds each.

  export TFDS_DATA_DIR=~/tensorflow_datasets
  python -m launch.local experiments/sweeps/recipe_study.py runs/recipe_study --parallel=2

The settings are those that experiments/sweeps/recipe_search.py found best on validation images, of
each method; all have the same time to train. The narrow networks are the sizes to which the others
are pruned, trained from scratch: at equal epochs, which take them less time. A quarter of an hour a
run on a core; all of one seed come before the next, so that what is finished is complete in pairs.
"""

import itertools

from experiments.sweeps import recipe_search as search

SCRIPT = search.SCRIPT
METHODS = (
    {"noise": "none"},
    {**search.NESTED, "clean_share": 0.6, "ramp_up": 0.8},
    {**search.NESTED, "clean_share": 0.5, **search.BOTH, "ascent": 0.05},
    {"noise": "dropout", "rate": 0.1},
    {"noise": "none", "width": 0.5},
    {"noise": "none", "width": 0.3},
)
SEEDS = range(6)


def runs():
    """Flags of each run: all of one seed before the next."""
    for seed, method in itertools.product(SEEDS, METHODS):
        yield {**search.common(), **search.LIGHT, **method, "seed": seed}
