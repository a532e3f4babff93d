"""The limit of a step's time, and the peaks that it is made of."""

import pytest

from bbo.compaction.timing import Latency
from bbo.types import UsageError
from experiments.scale import roofline
from experiments.scale.roofline import Peaks

PEAKS = Peaks(flops=1e12, bandwidth=1e11, link=1e10, source="", latency=1e-5)
COUNTS = {"flops": 3e9, "bytes_accessed": 1e8, "sent_bytes": 4e6, "num_collectives": 20}


def test_the_slower_of_computing_and_memory_counts_and_then_the_exchanges():
    found = roofline.predict(PEAKS, **COUNTS)
    assert found == pytest.approx((3e-3, 1e-3, 4e-4 + 2e-4), rel=1e-12)
    assert found.step == pytest.approx(3.6e-3, rel=1e-12) and found.bound == "compute"
    more = roofline.predict(PEAKS, **{**COUNTS, "bytes_accessed": 1e9})
    assert more.step == pytest.approx(10.6e-3, rel=1e-12) and more.bound == "memory"
    many = roofline.predict(PEAKS, **{**COUNTS, "num_collectives": 1000})
    assert many.step == pytest.approx(13.4e-3, rel=1e-12) and many.bound == "communication"


@pytest.mark.parametrize("wrong", [{"link": 0.0}, {"flops": -1.0}, {"latency": -1e-9}])
def test_peaks_are_positive(wrong):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} is {wrong[name]}; it must be a number"):
        roofline.predict(PEAKS._replace(**wrong), **COUNTS)


def test_data_sheets_name_themselves():
    for sheets in roofline.DATA_SHEETS.values():
        assert set(sheets) == {"float32", "bfloat16"}
        assert all(peaks.source.startswith("data sheet of ") for peaks in sheets.values())
        assert all(peaks.flops / peaks.bandwidth > 100 for peaks in sheets.values())


def test_peaks_are_the_operations_and_bytes_of_a_second(monkeypatch):
    times, called = Latency(64, median=1.0, low=0.5, high=2.0, repeats=5), []
    monkeypatch.setattr(
        roofline, "measure_latency", lambda *_, **given: called.append(given) or times
    )
    assert roofline.measured_peak_flops("float32", size=64, seconds=0.1) == 2 * 64**3 / 0.5

    def compare(functions, **given):
        called.append(given)
        for _ in range(2):  # the second time it writes where it has read
            assert functions[""]().nbytes == 4096
        return {"": times}

    monkeypatch.setattr(roofline, "compare_latencies", compare)
    assert roofline.measured_bandwidth(num_bytes=4096, seconds=0.1) == 2 * 4096 / 0.5
    assert [given["seconds"] for given in called] == [0.1, 0.1]


def test_measured_here():
    # A product of few numbers takes no less than a nanosecond, and no more than a second.
    assert 2 * 16**3 < roofline.measured_peak_flops("bfloat16", size=16, seconds=0) < 2e9 * 16**3
