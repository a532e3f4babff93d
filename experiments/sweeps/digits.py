"""The comparison on digits: no regulariser, Dropout and Batch Bridgeout, three seeds each.

  python -m launch.local experiments/sweeps/digits.py runs/digits --parallel=2

Nine runs, each under a minute on two CPU cores; offline.
"""

SCRIPT = "experiments.run"
METHODS = (
    {"noise": "none"},
    {"noise": "dropout", "rate": 0.1},
    {"noise": "batch_bridgeout"},
)


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed in range(3):
        for method in METHODS:
            yield {**method, "seed": seed}
