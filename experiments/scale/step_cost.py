"""How a training step grows with devices, batch and width: read off its compiled program.

Nothing is run and no array is made: shapes suffice to compile a step, and the fake devices of one
CPU, or TPUs that are not there, to compile it for many. Counts are those of the program that this
backend makes; another one fuses otherwise (bytes accessed, temporaries), but has to send the same
arrays.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bbo import compaction
from bbo.compaction.cost import array_bytes, num_params
from bbo.pipeline.compiled import create_programs
from bbo.pipeline.configured import Images
from bbo.settings.config import ExperimentConfig, override
from bbo.training.devices import AXIS, check_divides, data_mesh
from bbo.training.optimizer import create_optimizer
from bbo.training.step import METRICS, TrainState, create_state
from bbo.types import PyTree
from experiments.scale.tpu_program import estimated_cycles, off_chip_bytes

SENT: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
"""What each of n devices in a ring sends, as a multiple of the bytes of its result."""
INSTRUCTION = re.compile(rf" = ([^%]*?) ({'|'.join(SENT)})(?:-done)?\(")
"""Types and name in a line of HLO. Of a pair -start and -done, the latter has the result alone."""
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
"""An array in a type: its element, the bits of that, its shape."""
QUICKLY = {"xla_backend_optimization_level": 0}
"""For CPUs: compiles in half the time; other machine code, of the same instructions."""


class Collective(NamedTuple):
    """One exchange between all devices, after XLA has combined what it can."""

    kind: str
    """A key of ``SENT``."""
    num_bytes: int
    """Of the result on one device."""
    num_arrays: int
    """That were combined."""


class StepCost(NamedTuple):
    """What one training step takes on each device; see ``step_cost``."""

    devices: int
    collectives: tuple[Collective, ...]
    flops: float
    """Floating-point operations of all kinds: a multiply-add (MAC) is two of them."""
    bytes_accessed: float
    """Read and written by the fused operations, in and out of memory (of TPUs: off the chip)."""
    arguments: int
    """Bytes: the state, all images of the data set, the choice of a batch."""
    outputs: int
    """Bytes."""
    temporaries: int
    """Bytes: activations, gradients."""
    aliased: int
    """Bytes of the outputs that take the place of arguments."""
    cycles: int = 0
    """Of a TPU, as XLA estimates it for its instructions; it says none for others."""

    @property
    def memory(self) -> int:
        """Bytes of all that is there at a time."""
        return self.arguments + self.outputs - self.aliased + self.temporaries

    @property
    def sent_bytes(self) -> float:
        """What each device sends, if all of them form a ring."""
        return sum(SENT[one.kind](self.devices) * one.num_bytes for one in self.collectives)


class Communication(NamedTuple):
    """Bytes that data-parallel training has to sum over the devices in a step."""

    gradients: int
    """Four for each parameter, or two."""
    forward: int
    """Of BatchNorm: the means of x and of x squared, for each channel."""
    backward: int
    """Of BatchNorm: what flows back into these means, unless it is a gradient already."""
    metrics: int
    """Loss and accuracy."""


def collectives_in(text: str) -> tuple[Collective, ...]:
    """The exchanges in a compiled program, each once, also if it is in a loop.

    Args:
      text: HLO, as ``compiled.as_text()`` gives it.

    >>> collectives_in("%sum = (f32[3,8]{1,0}, bf16[]) all-reduce(%a, %b), channel_id=1")
    (Collective(kind='all-reduce', num_bytes=98, num_arrays=2),)
    """
    found = []
    for types, kind in INSTRUCTION.findall(text):
        arrays = ARRAY.findall(types)
        num_bytes = sum(_array_bytes(int(bits or 8), shape) for _, bits, shape in arrays)
        found.append(Collective(kind, num_bytes, len(arrays)))
    return tuple(found)


def _array_bytes(bits: int, shape: str) -> int:
    return math.ceil(bits * math.prod(map(int, filter(None, shape.split(",")))) / 8)


def step_shapes(
    config: ExperimentConfig, mesh: Mesh, num_images: int
) -> tuple[Callable, tuple[TrainState, Images, PyTree]]:
    """The training step and its arguments, as ``jax.ShapeDtypeStruct`` with shardings.

    Args:
      config: all settings; ``train.batch_size`` is that of all devices together.
      mesh: the devices.
      num_images: in the data set.

    Raises:
      UsageError: settings that do not fit each other or the devices.
    """
    info, batch_size = config.data.info, config.train.batch_size
    check_divides(batch_size, mesh.size)
    optimizer = create_optimizer(
        config.optimizer,
        epochs=config.train.epochs,
        steps_per_epoch=max(1, num_images // batch_size),
    )
    made = create_programs(config, optimizer, mesh, steps=1)
    fresh = functools.partial(create_state, made.model, optimizer)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    images = Images(
        jax.ShapeDtypeStruct((num_images, math.prod(info.image_shape)), jnp.uint8),
        jax.ShapeDtypeStruct((num_images,), jnp.int32),
        rng,
    )
    kinds = {"row": jnp.int32, "index": jnp.int32, "valid": jnp.bool_}
    calls = (config.train.steps_per_call,) if config.train.steps_per_call > 1 else ()
    choice = {
        name: jax.ShapeDtypeStruct((*calls, batch_size), kind) for name, kind in kinds.items()
    }
    state = jax.eval_shape(lambda rng: fresh(rng, info.image_shape), rng)
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*[None for _ in calls], AXIS))
    placed = _placed(state, everywhere), _placed(images, everywhere), _placed(choice, split)
    return made.train, placed


def _placed(tree: PyTree, where: NamedSharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def step_cost(config: ExperimentConfig, mesh: Mesh, num_images: int) -> StepCost:
    """Compiles the training step for the devices of a mesh, and reads off what it takes.

    Args:
      config: see ``step_shapes``, here and for ``mesh`` and ``num_images``.
      mesh: the devices; fake ones will do.
      num_images: in the data set.

    Raises:
      UsageError: settings that do not fit each other or the devices.
    """
    check_divides(config.train.batch_size, mesh.size)
    on_cpu = platform_of(mesh) == "cpu"
    # For CPUs XLA counts all rows of a table as read, though the step reads those of the batch
    # alone: it is given a table of as many rows, and the others are added to the memory. For TPUs
    # it lays out a table by its size.
    shown = config.train.batch_size // mesh.size if on_cpu else num_images
    step, arguments = step_shapes(config, mesh, shown)
    # Under pmap it is a function that calls a compiled one.
    compilable: Any = jax.jit(step) if config.train.parallel == "pmap" else step
    compiled = compilable.lower(*arguments).compile(compiler_options=QUICKLY if on_cpu else None)
    counts, memory = compiled.cost_analysis(), compiled.memory_analysis()
    per_image = array_bytes(arguments[1][:2]) // shown
    text, on_tpu = compiled.as_text(), platform_of(mesh) == "tpu"
    steps = config.train.steps_per_call  # XLA counts what a loop does once
    return StepCost(
        devices=mesh.size,
        collectives=collectives_in(text),
        flops=counts["flops"],
        bytes_accessed=off_chip_bytes(text) / steps if on_tpu else counts["bytes accessed"],
        arguments=memory.argument_size_in_bytes + (num_images - shown) * per_image,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        cycles=estimated_cycles(text) // steps if on_tpu else 0,
    )


def platform_of(mesh: Mesh) -> str:
    """What its devices are: ``cpu``, ``gpu`` or ``tpu``."""
    return mesh.devices.flat[0].platform


def step_macs(config: ExperimentConfig) -> int:
    """Multiply-adds of a training step, forward and backward, of all devices together."""
    # What pmap compiles, and what has options for the compiler, cannot be looked into; and to look
    # into draws of millions of numbers takes much memory, though noise multiplies no matrices.
    config = override(config, parallel="jit", dtype="float32", noise="none", steps_per_call=1)
    step, arguments = step_shapes(config, data_mesh(jax.devices()[:1]), 1)
    return compaction.count_macs(step, *arguments)


def expected_communication(
    state: TrainState,
    devices: int,
    parallel: str,
    *,
    halved: bool = False,
    norm_scope: str = "global",
) -> Communication:
    """What has to be summed over the devices, whatever the batch and the noise.

    The backward pass of BatchNorm needs three sums for each channel: of the gradients of its
    outputs, of these times the normalised inputs, and the gradient of the mean. jit finds that two
    of them are the gradients of bias and scale. Under pmap the gradients of both means are summed
    on their own.

    Args:
      state: shapes suffice. Each norm has scale and bias.
      devices: how many.
      parallel: ``jit`` or ``pmap``.
      halved: the gradients of all but norms are summed in bfloat16. With that dtype and jit XLA
        does so for TPUs; for CPUs it has no sum but of float32.
      norm_scope: of ``device``, the running statistics alone are averaged.
    """
    if devices == 1:
        return Communication(0, 0, 0, 0)
    statistics = array_bytes(state.batch_stats)
    own_norms = norm_scope == "device"
    of_norms = statistics // 4
    params = num_params(state.params)
    return Communication(
        gradients=2 * (params + of_norms) if halved else 4 * params,
        forward=statistics,
        backward=0 if own_norms else statistics if parallel == "pmap" else statistics // 2,
        metrics=4 * len(METRICS),
    )


def step_counts(config: ExperimentConfig, mesh: Mesh, num_images: int) -> dict[str, Any]:
    """All that can be counted of a step on each device, with what the closed forms say.

    Args:
      config: see ``step_cost``, here and for ``mesh`` and ``num_images``.
      mesh: the devices.
      num_images: in the data set.

    Raises:
      UsageError: settings that do not fit each other or the devices.
    """
    taken = step_cost(config, mesh, num_images)
    _, (state, _, _) = step_shapes(config, mesh, num_images)
    how = (config.train.parallel, config.train.dtype, platform_of(mesh))
    scope = config.train.norm_scope
    halved = (*how, scope) == ("jit", "bfloat16", "tpu", "global")
    expected = expected_communication(
        state, mesh.size, config.train.parallel, halved=halved, norm_scope=scope
    )
    reduced = sum(one.num_bytes for one in taken.collectives if one.kind == "all-reduce")
    others = sum(one.num_bytes for one in taken.collectives) - reduced
    return {
        "params": num_params(state.params),
        "flops": taken.flops,
        "bytes_accessed": taken.bytes_accessed,
        **({"estimated_cycles": taken.cycles} if taken.cycles else {}),
        "memory_bytes": taken.memory,
        "argument_bytes": taken.arguments,
        "output_bytes": taken.outputs,
        "temporary_bytes": taken.temporaries,
        "aliased_bytes": taken.aliased,
        "collectives": " ".join(sorted({one.kind for one in taken.collectives})),
        "num_collectives": len(taken.collectives),
        "all_reduce_bytes": reduced,
        "other_collective_bytes": others,
        **{f"{name}_bytes": value for name, value in expected._asdict().items()},
        "unexplained_bytes": reduced + others - sum(expected),
        "sent_bytes": taken.sent_bytes,
    }
