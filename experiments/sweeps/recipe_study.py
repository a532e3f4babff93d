"""The recipe for networks to be pruned, beside its rivals: six seeds that decided nothing.

  export TFDS_DATA_DIR=~/tensorflow_datasets
  python -m launch.local experiments/sweeps/recipe_study.py runs/recipe_study --parallel=2

CIFAR-10 and Fashion-MNIST, averaged down by two. The methods and their settings are those that the
search chose on CIFAR-10, see experiments/sweeps/recipe_search.py; on Fashion-MNIST nothing was
searched. All have the same time, but for networks that were narrow from the beginning, the last.
"""

import itertools
import os

from experiments.sweeps import recipe_search

SCRIPT = recipe_search.SCRIPT
METHODS = (
    {"noise": "none"},
    {**recipe_search.SIZES, "clean_share": 0.65, "ramp_up": 1.0, "epochs": 11},
    {**recipe_search.CRAM, "weight_decay": 1.5e-3},
    {"noise": "dropout", "rate": 0.1, "weight_decay": 1.5e-3},
    # CrAM+ with what is new here: the shares that are measured, really removed.
    {**recipe_search.CRAM, "removed_shares": "0.5,0.7", "epochs": 7},
)
NARROW = ({"noise": "none", "width": 0.5}, {"noise": "none", "width": 0.3})
DATASETS = ("cifar10", "fashion_mnist")
SEEDS = range(6)


def runs():
    """Flags of each run: of one dataset before the next, of one seed before the next."""
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    shared = {"data_dir": data_dir, "epochs": recipe_search.EPOCHS, **recipe_search.LIGHT}
    wide, narrow = (itertools.product(DATASETS, SEEDS, some) for some in (METHODS, NARROW))
    for dataset, seed, method in (*wide, *narrow):
        yield {**recipe_search.COMMON, **shared, "dataset": dataset, "seed": seed, **method}
