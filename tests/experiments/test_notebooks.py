"""Each notebook runs on new runs, from its first cell to its last, and is kept without outputs."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from bbo import pruning
from bbo.pipeline.curve_file import read_curve
from bbo.pipeline.experiment import run_experiment
from bbo.pipeline.finished import read_network
from bbo.settings.config import ExperimentConfig, override

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "experiments/notebooks").glob("*.ipynb"))
FIGURES = {"pytrees": 5}
METHODS = ("none", "batch_bridgeout")
CONFIG = override(
    ExperimentConfig(),
    epochs=2,
    batch_size=256,
    width=0.25,
    sparsities=(0.0, 0.5),
    granularity=("filter",),
    recovery=("none",),
)


def cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def play(notebook, out, **environment):
    """Runs all cells in a process of their own, where every warning is an error."""
    out.mkdir()
    return subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests/helpers/notebook_cells.py", notebook, out],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "MPLBACKEND": "Agg",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/compiled"),
        }
        | environment,
        cwd=out,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Two small runs, and the figures and tables of each notebook on them."""
    folder = tmp_path_factory.mktemp("notebooks")
    for method in METHODS:
        run_experiment(override(CONFIG, noise=method), folder / "runs" / method)
    (folder / "runs/later").mkdir()
    (folder / "runs/later/config.json").write_text("{}")
    for notebook in NOTEBOOKS:
        done = play(notebook, folder / notebook.stem, BBO_RUNS=str(folder / "runs"))
        assert done.returncode == 0, f"{notebook.name}\n{done.stderr}"
        assert (
            done.stdout == "runs/later is left out: unfinished: no curve.csv and no summary.json\n"
        )
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_cleared(notebook):
    for cell in cells(notebook):
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_are_drawn(notebook, played):
    figures = {path.name for path in (played / notebook.stem).glob("*.png")}
    expected = range(1, 1 + FIGURES[notebook.stem])
    assert figures == {f"figure_{number}.png" for number in expected}


@pytest.mark.slow
def test_pytrees_finds_what_the_runs_recorded(played):
    tables = [
        pd.read_csv(played / f"pytrees/table_{number}.csv", index_col=0) for number in (1, 5, 6)
    ]
    curves, kept, accuracy = tables
    recorded = pd.DataFrame(
        {
            method: 100 * read_curve(played / "runs" / method / "curve.csv")["test_top1"]
            for method in METHODS
        }
    ).to_numpy()
    np.testing.assert_allclose(curves[list(METHODS)], recorded, atol=0.0501)
    pruned = accuracy.loc[["nothing", "all"], list(METHODS)]
    np.testing.assert_allclose(pruned, recorded, atol=0.0501)
    sizes = {"conv1": 8, "conv2": 8, "conv3": 16, "conv4": 16}
    assert list(kept.index) == list(sizes)
    for method in METHODS:
        params = read_network(played / "runs" / method).variables["params"]
        scores = pruning.scores(params, criterion="l2", granularity="filter")
        share = pruning.kept_fraction(
            pruning.ranks(scores, scope="global"), pruning.drop_counts(scores, 0.5, scope="global")
        )
        mean = np.average(kept[method], weights=list(sizes.values()))
        np.testing.assert_allclose(mean, 100 * share, atol=0.0501)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_runs_it_says_what_to_do(notebook, tmp_path):
    done = play(notebook, tmp_path / "out", BBO_RUNS=str(tmp_path / "absent"))
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if "UsageError: " in line]
    assert "no finished run in" in told and "`make run`" in told and "BBO_RUNS" in told
