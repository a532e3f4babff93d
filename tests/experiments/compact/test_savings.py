"""What a smaller network saves, in a table and a figure."""

import jax
import jax.numpy as jnp
import pytest

from bbo.compaction import timing
from bbo.training.devices import data_mesh, replicate
from experiments.compact import savings

COUNTS = {
    "dense": {"MACs": 4000.0, "parameters": 80},
    "compact": {"MACs": 1000.0, "parameters": 20},
}
TIMES = [
    {"runtime": runtime, "network": network, "batch_size": size, "median": median}
    for runtime, network, size, median in [
        ("jax", "dense", 1, 0.002),
        ("jax", "compact", 1, 0.003),
        ("onnxruntime", "dense", 8, 0.4),
        ("onnxruntime", "compact", 8, 0.1),
    ]
]


def test_table_for_programs_and_for_people():
    found = savings.table(COUNTS, TIMES)
    assert [(row["cost"], row["left"], row["over_macs"]) for row in found] == [
        ("MACs", 0.25, None),
        ("parameters", 0.25, None),
        ("ms in jax, batch 1", 1.5, 6.0),
        ("ms in onnxruntime, batch 8", 0.25, 1.0),
    ]
    assert savings.table_text(found)[::2] == [
        {
            "cost": "MACs",
            "dense": "4 000",
            "compact": "1 000",
            "left (%)": "25.0",
            "times less": "4.00",
            "by MACs": "-",
            "slower than that": "-",
        },
        {
            "cost": "ms in jax, batch 1",
            "dense": "2",
            "compact": "3",
            "left (%)": "150.0",
            "times less": "0.67",
            "by MACs": "4.00",
            "slower than that": "6.00",
        },
    ]


def test_figure_has_a_bar_for_each_cost_and_room_for_what_grew():
    (axes,) = savings.savings_figure(savings.table(COUNTS, TIMES), "title").axes
    assert [bar.get_width() for bar in axes.patches] == [25, 25, 150, 25]
    assert axes.get_xlim()[1] == pytest.approx(157.5)
    assert [line.get_xdata()[0] for line in axes.lines] == [25]
    texts = ["25.0 %", "25.0 %", "150.0 %  × 6.0", "25.0 %  × 1.0"]
    assert [text.get_text() for text in axes.texts] == texts
    assert {text.get_position()[0] for text in axes.texts} == {1.02}  # beside the panel


def test_counted_and_measured():
    network = timing.Timed(
        lambda variables, x: x.reshape(len(x), -1) @ variables["params"]["kernel"],
        {"params": {"kernel": jnp.zeros((12, 5))}},
    )
    assert savings.counted(network, (2, 2, 3), batch_size=7) == {
        "parameters": 60,
        "MACs": 60,
        "bytes of arrays": 240,
        "bytes of activations, batch 7": 4 * 7 * (12 + 5),
    }
    rows = timing.latencies(
        {"jax": {"dense": timing.jax_call(network)}},
        jnp.zeros((2, 2, 2, 3)),
        batch_sizes=[1, 5],
        seconds=0,
    )
    assert [(row["runtime"], row["network"], row["batch_size"]) for row in rows] == [
        ("jax", "dense", 1),
        ("jax", "dense", 5),
    ]
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)


def test_networks_are_timed_on_one_device_wherever_their_arrays_lie():
    spread = replicate(jnp.ones((4, 2)), data_mesh())
    assert len(spread.devices()) == len(jax.devices()) > 1
    used = []
    call = timing.jax_call(timing.Timed(lambda variables, x: x @ variables, spread))

    def watched(images):
        result = call(images)
        used.append((images.devices(), result.devices()))
        return result

    images = replicate(jnp.ones((3, 4)), data_mesh())
    timing.latencies({"jax": {"dense": watched}}, images, batch_sizes=[2], seconds=0)
    assert set(map(str, used)) == {str(({jax.devices()[0]},) * 2)}
