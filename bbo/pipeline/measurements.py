"""The programs that change no parameter: how good a network is, and what mending looks at."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bbo import pruning
from bbo.pipeline.configured import Images, batch_of, compiler_options, model_of
from bbo.settings.config import ExperimentConfig
from bbo.training.evaluation import batch_sums
from bbo.training.step import cross_entropy
from bbo.types import Array, Params, PyTree


def create_measurements(
    config: ExperimentConfig, mesh: Mesh, *, kept: Mapping[str, int] | None = None
) -> dict[str, Callable[..., PyTree]]:
    """Those of ``compiled.Programs``, by name; each is compiled at its first call.

    Args:
      config: all settings.
      mesh: the devices.
      kept: the channels of a network that has lost some, see ``create.kept_channels``.
    """
    model = model_of(config, kept=kept)
    # With momentum 0 the running statistics become those of the batch.
    forgetful = dataclasses.replace(config.model, norm_momentum=0.0, final_norm_momentum=0.0)
    measuring = model_of(dataclasses.replace(config, model=forgetful), kept=kept)

    def evaluate_batch(variables: PyTree, images: Images, choice: PyTree) -> dict[str, Array]:
        batch = batch_of(config, images, choice)
        logits = model.apply(variables, batch["image"], train=False)
        return batch_sums(logits, batch["label"], choice["valid"])

    def augmented(images: Images, choice: PyTree) -> Array:
        # The first row tells batches apart: each is augmented in its own way, the same each time.
        augment_rng = jax.random.fold_in(images.rng, choice["row"][0])
        return batch_of(config, images, choice, augment_rng)["image"]

    def moments(variables: PyTree, images: Images, choice: PyTree) -> PyTree:
        batch = augmented(images, choice)
        _, updates = measuring.apply(variables, batch, train=True, mutable=["batch_stats"])
        return updates["batch_stats"]

    def mended(
        mend: Callable[..., PyTree], dense: PyTree, pruned: PyTree, images: Images, choice: PyTree
    ) -> PyTree:
        return mend(model, dense, pruned, augmented(images, choice), norm=pruning.norm_of)

    def gradients(variables: PyTree, images: Images, choice: PyTree) -> Params:
        batch = batch_of(config, images, choice)

        def loss(params: Params) -> Array:
            logits = model.apply(variables | {"params": params}, batch["image"], train=False)
            return jnp.mean(cross_entropy(logits, batch["label"]))

        return jax.grad(loss)(variables["params"])

    programs = {
        "evaluate": evaluate_batch,
        "moments": moments,
        "mend": mended,
        "gradients": gradients,
    }
    return {
        name: jax.jit(
            program,
            static_argnums=0 if name == "mend" else (),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
            compiler_options=compiler_options(config, mesh, name),
        )
        for name, program in programs.items()
    }
