"""Settings for narrow networks on CIFAR-10: eight of each method and network, one seed.

  python -m launch.local experiments/sweeps/cifar10_tuning.py runs/cifar10_tuning --parallel=2
  python -m experiments.report runs/cifar10_tuning --out=runs/cifar10_tuning/report

What is chosen has the largest mean validation accuracy over 0 to 60 % of the filters removed, with
batch_norm recovery. A schedule of a few epochs needs a larger weight decay than one of hundreds, so
that it is searched as well: its time constant is 1 / (learning rate * weight decay) steps.
"""

import itertools
import os

SCRIPT = "experiments.run"
NETWORKS = ({"model": "vgg16", "width": 0.125}, {"model": "thin_resnet18", "width": 0.5})
SETTINGS = (
    *({"noise": "none", "weight_decay": decay} for decay in (1e-3, 2e-3, 4e-3, 8e-3)),
    *(
        {"noise": noise, "rate": rate, "weight_decay": decay}
        for noise, rate, decay in itertools.product(
            ("dropout", "batch_bridgeout"), (0.05, 0.15), (2e-3, 4e-3)
        )
    ),
    # The largest weight decays so far had come out best.
    *({"noise": "none", "weight_decay": decay} for decay in (1.6e-2, 3.2e-2)),
    *(
        {"noise": noise, "rate": rate, "weight_decay": 8e-3}
        for noise, rate in itertools.product(("dropout", "batch_bridgeout"), (0.05, 0.15))
    ),
    # Then the weakest noise had.
    *({"noise": "none", "weight_decay": decay} for decay in (6e-3, 1.2e-2)),
    *(
        {"noise": noise, "rate": 0.02, "weight_decay": decay}
        for noise, decay in itertools.product(("dropout", "batch_bridgeout"), (4e-3, 8e-3))
    ),
)


def common():
    """Flags of every run on CIFAR-10 in narrow networks."""
    return {
        "preset": "clean",
        "schedule": "cosine",
        "epochs": 4,
        "granularity": "filter",
        # Of Batch Bridgeout: the penalty of the lasso, on what is pruned.
        "q": 1.0,
        "target_unit": "filter",
        "data_dir": os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"),
    }


def runs():
    """Flags of each run, all of one network before the next."""
    for network, setting in itertools.product(NETWORKS, SETTINGS):
        yield {
            **common(),
            **network,
            **setting,
            "seed": 100,  # not one of those that are compared
            "sparsities": "0,0.1,0.2,0.3,0.4,0.5,0.6",
            "recovery": "batch_norm",
        }
