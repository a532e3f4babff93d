"""A run on digits with a network as if trained, for tests of what makes it smaller."""

import jax
import numpy as np

from bbo.compaction import cost
from bbo.pipeline import run as runs
from bbo.pipeline.shrinking.shrink import for_removal
from bbo.settings.config import ExperimentConfig, override

CONFIG = for_removal(
    override(ExperimentConfig(), batch_size=64, width=0.5, recovery_images=128, epochs=2),
    scope="group",
    recovery=("batch_norm",),
)


def set_up(**settings):
    return runs.set_up(override(CONFIG, **settings), devices=jax.devices()[:1])


def trained(run):
    """Its variables as if trained: every norm shifts."""
    found = runs.variables_of(run.state)
    draw = np.random.default_rng(0)
    shifted = jax.tree.map(
        lambda x: x + draw.uniform(0.1, 0.3, x.shape).astype(np.float32) if x.ndim == 1 else x,
        found["params"],
    )
    return found | {"params": shifted}


def macs_of(run, model, variables):
    return sum(cost.layer_macs(model, variables, run.config.data.info.image_shape).values())
