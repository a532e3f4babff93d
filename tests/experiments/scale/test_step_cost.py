"""What the devices exchange is what data-parallel training has to sum, to the byte."""

import functools

import jax
import pytest

from bbo.settings.config import ExperimentConfig, override
from bbo.training.devices import data_mesh
from bbo.types import UsageError
from experiments.scale.step_cost import (
    Collective,
    StepCost,
    collectives_in,
    expected_communication,
    step_cost,
    step_counts,
    step_macs,
    step_shapes,
)

pytestmark = pytest.mark.slow

NUM_IMAGES = 5000
# Of 8, 8, 16, 16 channels, then a dense layer; each norm has a scale and a bias.
CHANNELS = 8 + 8 + 16 + 16
PARAMS = 9 * (1 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 16 * 10 + 10 + 2 * CHANNELS
METRICS = 2


@functools.cache
def counts_of(devices, **settings):
    config = override(ExperimentConfig(), **{"width": 0.25, "batch_size": 64, **settings})
    mesh = data_mesh(jax.devices()[:devices])
    return step_counts(config, mesh, NUM_IMAGES)


@functools.cache
def collectives_of(devices, **settings):
    config = override(ExperimentConfig(), **{"width": 0.25, "batch_size": 64, **settings})
    mesh = data_mesh(jax.devices()[:devices])
    return step_cost(config, mesh, NUM_IMAGES).collectives


@pytest.mark.parametrize("noise", ["none", "batch_bridgeout", "dropout"])
def test_one_device_sends_nothing(noise):
    counts = counts_of(1, noise=noise)
    assert (counts["num_collectives"], counts["collectives"], counts["sent_bytes"]) == (0, "", 0)
    assert counts["gradients_bytes"] == counts["unexplained_bytes"] == 0


@pytest.mark.parametrize("noise", ["none", "batch_bridgeout", "dropout"])
def test_devices_sum_gradients_statistics_and_metrics_and_nothing_else(noise):
    counts = counts_of(8, noise=noise)
    assert counts["collectives"] == "all-reduce" and counts["params"] == PARAMS == 4370
    assert counts["all_reduce_bytes"] == 4 * (PARAMS + 2 * CHANNELS + CHANNELS + METRICS) == 18064
    assert counts["unexplained_bytes"] == counts["other_collective_bytes"] == 0
    parts = ("gradients", "forward", "backward", "metrics")
    assert [counts[f"{name}_bytes"] for name in parts] == [
        4 * PARAMS,
        4 * 2 * CHANNELS,
        4 * CHANNELS,
        4 * METRICS,
    ]
    assert counts["sent_bytes"] == 2 * 7 / 8 * 18064


def test_noise_is_drawn_without_a_word_to_other_devices():
    # Each norm sums twice, forward and backward; then all gradients at once, with the metrics.
    sums = sorted([4 * 2 * channels for channels in (8, 8, 16, 16)] * 2)
    without = collectives_of(8, noise="none")
    assert sorted(one.num_bytes for one in without)[:-1] == sums
    assert collectives_of(8, noise="batch_bridgeout") == without
    assert collectives_of(8, noise="dropout") == without


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 64), (8, 16)])
def test_the_sums_are_the_same_for_any_batch_and_number_of_devices(devices, batch_size):
    exchanged = collectives_of(devices, noise="batch_bridgeout", batch_size=batch_size)
    assert exchanged == collectives_of(8, noise="batch_bridgeout")


def test_a_residual_network_too():
    settings = {"model": "thin_resnet18", "batch_size": 16}
    counts = counts_of(8, noise="batch_bridgeout", **settings)
    # Of the stem, then two blocks of two norms in each stage, and those of two shortcuts.
    channels, norms = 4 + 4 * 4 + 5 * 8 + 5 * 16, 1 + 4 + 5 + 5
    assert counts["forward_bytes"] == 4 * 2 * channels
    assert counts["collectives"] == "all-reduce" and counts["unexplained_bytes"] == 0
    assert counts["all_reduce_bytes"] == 4 * (counts["params"] + 3 * channels + METRICS)
    assert counts["num_collectives"] <= 2 * norms + 1


def test_with_norms_of_each_device_all_is_summed_at_the_end():
    counts = counts_of(8, noise="batch_bridgeout", norm_scope="device")
    assert counts["collectives"] == "all-reduce" and counts["unexplained_bytes"] == 0
    assert counts["all_reduce_bytes"] == 4 * (PARAMS + 2 * CHANNELS + METRICS)
    assert counts["num_collectives"] == 1


def test_bfloat16_sums_in_float32():
    exchanged = collectives_of(8, noise="batch_bridgeout", dtype="bfloat16")
    assert exchanged == collectives_of(8, noise="none")


def test_pmap_sums_both_gradients_of_the_statistics_and_keeps_the_old_state():
    counts = counts_of(8, noise="batch_bridgeout", parallel="pmap")
    assert counts["collectives"] == "all-reduce" and counts["unexplained_bytes"] == 0
    assert counts["all_reduce_bytes"] == 4 * (PARAMS + 2 * CHANNELS + 2 * CHANNELS + METRICS)
    assert counts["aliased_bytes"] == 0


def test_memory_is_the_state_all_images_and_the_devices_part_of_the_batch():
    # Parameters and momentum, running means and variances, and two counts of steps.
    state = 4 * (2 * PARAMS + 2 * CHANNELS + 2)
    images, rows, key = NUM_IMAGES * (8 * 8 + 4), 4 * 64 // 8, 8
    of = {noise: counts_of(8, noise=noise) for noise in ("none", "batch_bridgeout", "dropout")}
    arguments = {noise: counts["argument_bytes"] for noise, counts in of.items()}
    assert arguments == {
        "none": state + images + rows,
        "batch_bridgeout": state + images + rows + key,
        "dropout": state + images + 2 * rows + key,  # it draws by the place in the batch
    }
    for counts in (*of.values(), counts_of(1, noise="none")):
        assert counts["aliased_bytes"] == state
        assert counts["memory_bytes"] == (
            counts["argument_bytes"] + counts["temporary_bytes"] + counts["output_bytes"] - state
        )
    assert of["none"]["temporary_bytes"] < counts_of(1, noise="none")["temporary_bytes"] / 4


def test_operations_are_those_of_the_devices_part_of_the_batch():
    # XLA leaves out the padding: of 3 taps on a side of 8 pixels, (3 * 8 - 2) / 8 on average.
    first, others = 22**2 * 8, 22**2 * 64 + 10**2 * (128 + 256) + 160
    least = 2 * 64 * (2 * first + 3 * others)  # FLOPs; nobody asks for the gradient of the images
    one, eight = (counts_of(devices, noise="none")["flops"] for devices in (1, 8))
    assert least <= one <= 1.15 * least
    assert least / 8 <= eight <= 1.15 * least / 8


def test_bytes_accessed_do_not_grow_with_the_data_set():
    config = override(ExperimentConfig(), width=0.25, batch_size=64, noise="none")
    few, many = (step_cost(config, data_mesh(jax.devices()[:8]), number) for number in (64, 10**6))
    assert many == few._replace(arguments=few.arguments + (10**6 - 64) * (64 + 4))


def test_multiply_adds_are_counted_with_padding_and_are_half_of_the_operations():
    config = override(ExperimentConfig(), width=0.25, batch_size=4, noise="batch_bridgeout")
    dense = 9 * 64 * (1 * 8 + 8 * 8) + 9 * 16 * (8 * 16 + 16 * 16) + 16 * 10
    expected = 4 * (3 * dense - 9 * 64 * 8)
    assert step_macs(config) == expected
    assert step_macs(override(config, parallel="pmap")) == expected
    assert step_macs(override(config, dtype="bfloat16")) == expected


def test_noise_for_each_example_gathers_no_images():
    exchanged = collectives_of(8, noise="bridgeout")
    assert {one.kind for one in exchanged} == {"all-reduce"}


def test_several_steps_in_a_call_exchange_in_each_what_one_does():
    exchanged = collectives_of(8, noise="batch_bridgeout", steps_per_call=4)
    assert exchanged == collectives_of(8, noise="batch_bridgeout")
    one, four = (counts_of(8, noise="none", steps_per_call=count) for count in (1, 4))
    assert four["argument_bytes"] - one["argument_bytes"] == 3 * 4 * 64 // 8
    assert four["flops"] == pytest.approx(one["flops"], rel=0.01)


def test_with_bfloat16_gradients_take_half_but_for_those_of_norms():
    config = override(ExperimentConfig(), width=0.25, dtype="bfloat16", batch_size=64)
    _, (state, _, _) = step_shapes(config, data_mesh(jax.devices()[:8]), NUM_IMAGES)
    whole, halved = (
        expected_communication(state, 8, "jit", halved=halved) for halved in (False, True)
    )
    assert whole.gradients == 4 * PARAMS
    assert halved.gradients == 2 * (PARAMS - 2 * CHANNELS) + 4 * 2 * CHANNELS
    assert halved[1:] == whole[1:]


def test_a_batch_that_cannot_be_split_is_a_mistake():
    with pytest.raises(UsageError, match="a batch of 12 cannot be split evenly over 8 devices"):
        counts_of(8, batch_size=12)


HLO = """
  %all-reduce.1 = (f32[8]{0}, /*index=1*/bf16[3,3,8,16]{3,2,1,0:T(8,128)(2,1)}) \
all-reduce(%a, %b), channel_id=2, metadata={op_name="all-reduce(x)"}
  ROOT %all-gather.2 = u8[64,8,8,1]{3,2,1,0} all-gather(%c), dimensions={0}
  %start = (f32[4]{0}, f32[16]{0}) all-gather-start(%d), dimensions={0}
  %done = f32[16]{0} all-gather-done(%start)
  %reduce-scatter.3 = pred[6]{0} reduce-scatter(%e), dimensions={0}
  %permuted = s4[3]{0} collective-permute(%f)
  %all-to-all = c64[] all-to-all(%g)
  %fusion = f32[8]{0} fusion(%all-reduce.1), calls=%all-reduce-like(f32[8])
  %reduce = f32[] reduce(%h, %zero), to_apply=%sum
"""


def test_collectives_are_read_off_the_text():
    assert collectives_in(HLO) == (
        Collective("all-reduce", 4 * 8 + 2 * 9 * 8 * 16, 2),
        Collective("all-gather", 64 * 8 * 8, 1),
        Collective("all-gather", 4 * 16, 1),
        Collective("reduce-scatter", 6, 1),
        Collective("collective-permute", 2, 1),
        Collective("all-to-all", 8, 1),
    )


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 3 / 4 * 100),
        ("all-gather", 3 / 4 * 100),
        ("reduce-scatter", 3 * 100),  # 100 is left of 400
        ("all-to-all", 3 / 4 * 100),
        ("collective-permute", 100),
        ("collective-broadcast", 100),
    ],
)
def test_what_a_ring_of_four_sends(kind, sent):
    taken = StepCost(4, (Collective(kind, 100, 1),) * 2, 0.0, 0.0, 0, 0, 0, 0)
    assert taken.sent_bytes == 2 * sent
