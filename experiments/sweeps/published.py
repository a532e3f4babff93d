r"""The paper's comparison under the paper's protocol, with each of its quirks.

  python -m launch.slurm experiments/sweeps/published.py runs/published --parallel=18 \
      -- --gres=gpu:1 --cpus-per-task=4 --time=12:00:00
  python -m launch.local experiments/sweeps/published.py runs/published --gpus=0,1,2,3
  python -m launch.status runs/published

54 runs of 230 epochs: three networks, two datasets, three methods, three seeds. What they cost has
not been measured; a run that meets its time limit saves and goes on in another job. CIFAR-10 and
CIFAR-100 must have been prepared (experiments.prepare), in TFDS_DATA_DIR if that is set.
"""

import itertools
import os

SCRIPT = "experiments.run"
MODELS = ("vgg16", "thin_resnet34", "wrn28_10")
DATASETS = ("cifar10", "cifar100")
METHODS = (
    {"noise": "none"},
    # Targeted, by the preset; experiments/sweeps/clean.py has plain Dropout.
    {"noise": "dropout", "rate": 0.3},
    # The defaults of the authors' program and the example of its README. What the paper used for
    # each network and dataset is not known.
    {"noise": "batch_bridgeout", "rate": 0.3, "q": 1.5, "target_fraction": 0.75},
)
# The number of seeds in the paper is not known; its figures have error bars.
SEEDS = range(3)


def runs():
    """Flags of each run, all of one seed before the next."""
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    for seed, model, dataset, method in itertools.product(SEEDS, MODELS, DATASETS, METHODS):
        yield {
            "preset": f"published/{model}_{dataset}",
            **method,
            "seed": seed,
            "data_dir": data_dir,
        }
