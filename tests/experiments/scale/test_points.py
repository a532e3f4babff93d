"""What is predicted from counts, and how the lines of a figure are told apart."""

import jax
import pytest

from bbo.settings.config import ExperimentConfig, override
from experiments.scale import points, step_cost
from experiments.scale.points import Point, described
from experiments.scale.report import communication_table, table_text
from experiments.scale.roofline import Peaks

PEAKS = Peaks(flops=1e12, bandwidth=1e11, link=1e10, source="", memory=1e9)
CONFIG = override(ExperimentConfig(), dataset="cifar10")
PODS = {"v5e:2x2": 4, "v5e:4x4": 16, "v6e:2x2": 4}


@pytest.fixture
def counted(monkeypatch):
    """Rows of a network of which the work, but not the communication, is shared."""

    def counts(config, mesh, num_images):
        if num_images > 1000:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out\nof memory")
        return {
            "flops": 8e9 / mesh,
            "bytes_accessed": 1e8 / mesh,
            "sent_bytes": 2.5e6,
            "num_collectives": 5,
            "memory_bytes": 2.5e8,
            "estimated_cycles": 7_000_000,
            "all_reduce_bytes": 2e6,
            "unexplained_bytes": 0,
        }

    monkeypatch.setattr(step_cost, "step_counts", counts)
    monkeypatch.setattr(step_cost, "step_macs", lambda config: 2_000_000)
    monkeypatch.setattr(points, "mesh_of", lambda point: point.devices)
    lines = [
        Point("vgg16", noise, "strong", 1.0, 64, pod, size)
        for noise in ("none", "dropout")
        for pod, size in PODS.items()
    ]
    peaks = dict.fromkeys(PODS, PEAKS)
    return lambda images: list(described(lines, CONFIG, images, peaks))


def test_times_shares_and_the_limit_of_an_exchange(counted):
    four, sixteen, other, *_ = counted(images=100)
    assert (four["compute_seconds"], four["memory_seconds"]) == (2e-3, 2.5e-4)
    assert four["communication_seconds"] == sixteen["communication_seconds"] == 2.5e-4
    assert four["step_seconds"] == pytest.approx(2.25e-3) and four["memory_share"] == 0.25
    assert four["latency_limit"] == pytest.approx((2e-3 - 2.5e-4) / 5)
    assert sixteen["latency_limit"] == pytest.approx((5e-4 - 2.5e-4) / 5)
    assert four["efficiency"] == other["efficiency"] == 1  # each chip's fewest devices
    assert sixteen["efficiency"] == pytest.approx(2.25e-3 / 4 / 7.5e-4)
    assert four["macs"] == 1_000_000 * 64 / 4


def test_a_line_for_each_network_noise_and_chip(counted):
    table = communication_table(counted(images=100))
    assert [(line["noise"], line["chip"], line["up to (devices)"]) for line in table] == [
        (noise, chip, count)
        for noise in ("none", "dropout")
        for chip, count in (("v5e", 16), ("v6e", 4))
    ]
    assert [line["longest from (devices)"] for line in table] == ["none"] * 4
    assert [line["each may take (us)"] for line in table] == ["50.0", "350.0"] * 2
    rows = [row | {"bound": "communication"} for row in counted(images=100)]
    assert [line["longest from (devices)"] for line in communication_table(rows)] == [4] * 4


def test_columns_of_which_all_rows_are_alike_are_left_out(counted):
    rows = counted(images=100)
    assert not {"scaling", "width", "bytes not in closed form"} & table_text(rows)[0].keys()
    rows[1]["unexplained_bytes"] = 4
    shown = [line["bytes not in closed form"] for line in table_text(rows)]
    assert shown == [0, 4, 0, 0, 0, 0]
    assert "bytes not in closed form" in table_text(rows[1:2])[0]


def test_what_does_not_fit_is_a_row_without_counts(counted):
    rows = counted(images=10_000)
    assert [row["error"] for row in rows] == ["RESOURCE_EXHAUSTED: Ran out of memory"] * 6
    assert all("flops" not in row and row["batch_size"] == 64 for row in rows)


def test_another_error_of_the_compiler_is_none_of_memory(counted, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(step_cost, "step_counts", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        counted(images=100)
