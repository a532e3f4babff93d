"""Narrow networks on CIFAR-10: no regulariser, Dropout and Batch Bridgeout, three seeds each.

  python -m launch.local experiments/sweeps/cifar10_study.py runs/cifar10_study --parallel=2
  python -m experiments.report runs/cifar10_study --out=runs/cifar10_study/report

The settings are those that the search for VGG-16 chose, see experiments/sweeps/cifar10_tuning.py;
for the residual network they were not searched anew. No regulariser is there a second time, with
the weight decay of the others. 24 runs of four epochs, a quarter of an hour each on one CPU core.
"""

import itertools

from experiments.sweeps import cifar10_tuning

SCRIPT = cifar10_tuning.SCRIPT
METHODS = (
    {"noise": "none", "weight_decay": 1.2e-2},
    {"noise": "none", "weight_decay": 8e-3},
    {"noise": "dropout", "rate": 0.02, "weight_decay": 8e-3},
    {"noise": "batch_bridgeout", "rate": 0.02, "weight_decay": 8e-3},
)
SEEDS = range(3)


def runs():
    """Flags of each run: all of one network before the next, all of one seed before the next."""
    products = itertools.product(cifar10_tuning.NETWORKS, SEEDS, METHODS)
    for network, seed, method in products:
        yield {
            **cifar10_tuning.common(),
            **network,
            **method,
            "seed": seed,
            "sparsities": "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7",
            "recovery": "none,batch_norm,least_squares",
        }
