"""The comparison on digits: four methods, three seeds each.

  python -m launch.local experiments/sweeps/digits.py runs/digits --parallel=2

No regulariser, Dropout, Batch Bridgeout, and the recipe of docs/recipe.md. Twelve runs, each
under a minute on two CPU cores; offline.
"""

SCRIPT = "experiments.run"
METHODS = (
    {"noise": "none"},
    {"noise": "dropout", "rate": 0.1},
    {"noise": "batch_bridgeout"},
    {
        "noise": "nested_dropping",
        "removed_shares": "0.5,0.7",
        "clean_share": 0.65,
        "ramp_up": 1.0,
    },
)


def runs():
    """Flags of each run; the preset ``digits`` is the default."""
    for seed in range(3):
        for method in METHODS:
            yield {**method, "seed": seed}
