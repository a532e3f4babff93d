"""Each example ends with a smaller network that has learnt, exported."""

import re

import pytest

from experiments.examples.__main__ import NAMES, main


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_way(name, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    assert main([name, str(tmp_path / "small.stablehlo")]) == 0
    printed = capsys.readouterr().out
    (*_, last) = re.findall(r"further: ([0-9.]+)%", printed)
    assert float(last) > 75, printed
    assert (tmp_path / "small.stablehlo").stat().st_size < 50_000
    assert "difference" in printed


def test_a_name_that_is_none(capsys):
    assert main(["torch"]) == 2
    assert "linen|nnx|equinox|plain small.stablehlo" in capsys.readouterr().out
