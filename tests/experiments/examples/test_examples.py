"""Each example ends with a smaller network that has learnt, exported."""

import pathlib
import re
import subprocess
import sys

import pytest

from experiments.examples.__main__ import NAMES, main

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_way(name, tmp_path):
    pytest.importorskip("flatbuffers")
    path = tmp_path / "small.stablehlo"
    command = [sys.executable, "-m", "experiments.examples", name, path]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (*_, last) = re.findall(r"further: ([0-9.]+)%", printed)
    assert float(last) > 60, printed
    assert path.stat().st_size < 50_000
    assert "difference" in printed


def test_a_name_that_is_none(capsys):
    assert main(["torch"]) == 2
    assert "linen|nnx|equinox|plain small.stablehlo" in capsys.readouterr().out
