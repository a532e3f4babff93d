"""The recipe and its rivals on another network: a thin ResNet-20 on CIFAR-10 as it is, 32x32.

  export TFDS_DATA_DIR=~/tensorflow_datasets
  python -m launch.local experiments/sweeps/recipe_resnet.py runs/recipe_resnet --parallel=2

The methods and settings of experiments/sweeps/recipe_study.py: nothing was searched here. The first
four of one seed before the next. Made for a GPU.
"""

import os

from experiments.sweeps import recipe_search, recipe_study

SCRIPT = recipe_study.SCRIPT
METHODS = recipe_study.METHODS[:4]
SEEDS = range(6)


def runs():
    """Flags of each run: all methods of one seed before the next."""
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    here = {"data_dir": data_dir, "model": "thin_resnet20", "downscale": 1}
    shared = {**here, "epochs": recipe_search.EPOCHS, **recipe_search.LIGHT}
    for seed in SEEDS:
        for method in METHODS:
            yield {**recipe_search.COMMON, **shared, "seed": seed, **method}
