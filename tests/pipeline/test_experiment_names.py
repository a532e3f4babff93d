"""A regulariser, a criterion, a recovery, a network and images from outside: two tables each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bbo import noise
from bbo.data import datasets
from bbo.models import create
from bbo.noise import configured
from bbo.pipeline import run_experiment
from bbo.pruning import criteria
from bbo.pruning.recovery import by_name
from bbo.settings import ExperimentConfig, catalog, override
from bbo.types import UsageError

CALLS = []


def gaussian(*, rate, on):
    """Weights times a normal number of mean 1."""

    def weights(rng, params):
        CALLS.append("noise")
        chosen = {name for name, leaf in params.items() if on(name, leaf["kernel"])}
        draw = 1 + rate * jax.random.normal(rng, ())
        return {
            name: layer | {"kernel": layer["kernel"] * draw} if name in chosen else layer
            for name, layer in params.items()
        }

    return noise.Regulariser(weights=weights)


def largest(unit):
    CALLS.append("criterion")
    return jnp.max(jnp.abs(unit.weights), axis=unit.axes)


def doubled(context, dense, pruned):
    """The head twice as large: a recovery that changes the loss, and is recognised by it."""
    CALLS.append("recovery")
    assert next(iter(context.batches()))["row"].size and dense is not pruned
    return pruned | {"params": pruned["params"] | {"head": _twice(pruned["params"]["head"])}}


def _twice(layer):
    return jax.tree.map(lambda leaf: 2 * leaf, layer)


class Plain(nn.Module):
    """A convolution of so many channels, and a head."""

    num_classes: int
    channels: int

    @nn.compact
    def __call__(self, x, *, train=False, noise=None):
        self.variable("batch_stats", "unused", jnp.zeros, ())
        x = nn.relu(nn.Conv(self.channels, (3, 3), name="conv")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def stripes(config):
    """Images of vertical or of horizontal stripes; two classes."""
    CALLS.append("dataset")
    label = np.arange(300, dtype=np.int32) % 2
    image = np.zeros((300, 6, 6, 1), np.uint8)
    image[label == 0, ::2] = image[label == 1, :, ::2] = 255
    split = datasets.Split(image, label)
    return split, split


STRIPES = catalog.DatasetInfo((6, 6, 1), 2, (0.5,), (0.5,), 0, False, prepared=False)


@pytest.fixture
def names(monkeypatch):
    for table, name, value in (
        (catalog.REGULARISERS, "gaussian", ("rate", "noise_on")),
        (configured.MAKERS, "gaussian", gaussian),
        (catalog.CRITERIA, "largest", ("filter", "weight")),
        (criteria.FUNCTIONS, "largest", largest),
        (catalog.RECOVERIES, "doubled", False),
        (by_name.FUNCTIONS, "doubled", doubled),
        (catalog.MODELS, "plain", catalog.Family(lambda n: len(n) == 1, "plainCHANNELS")),
        (catalog.DATASETS, "stripes", STRIPES),
        (datasets.LOADERS, "stripes", stripes),
        (create.BUILDERS, "plain", lambda layers, classes, config, n: Plain(classes, n)),
    ):
        assert name not in table
        monkeypatch.setitem(table, name, value)
    CALLS.clear()


OWN = {"noise": "gaussian", "criterion": "largest", "recovery": ("none", "doubled")}
SMALL = {"epochs": 1, "batch_size": 256, "sparsities": (0.0, 0.5), "recovery_images": 256}


def test_names_from_outside_go_through_the_pipeline(names, tmp_path):
    config = override(
        ExperimentConfig(), model="plain6", dataset="stripes", rate=0.1, **OWN, **SMALL
    )
    curve = run_experiment(config, tmp_path / "run").curve
    assert set(CALLS) == {"noise", "criterion", "recovery", "dataset"}
    assert curve["error"].isna().all() and len(curve) == 2 * 2 * 2
    assert set(curve["criterion"]) == {"largest"}
    filters = curve[curve["granularity"] == "filter"]
    assert sorted(set(filters["units_kept"])) == [0.5, 1.0]
    by_recovery = filters.set_index(["sparsity", "recovery"])["test_loss"]
    assert (by_recovery[:, "none"] != by_recovery[:, "doubled"]).all()


@pytest.mark.parametrize("name", [*OWN, "model", "dataset"])
def test_without_an_entry_a_name_is_refused(name):
    value = {**OWN, "model": "plain6", "dataset": "stripes"}[name]
    with pytest.raises(UsageError, match=name):
        override(ExperimentConfig(), **{name: value})
