"""The wheel: what is in it, and that its programs run where nothing of the checkout is."""

import csv
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import jax
import pytest
import setuptools

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("bbo", "experiments", "launch", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OFFLINE = ("--no-deps", "--no-index")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        int(setuptools.__version__.partition(".")[0]) < 77,
        reason="setuptools is too old to build; install the extra test anew",
    ),
]


def done(*command, **options):
    """What a process has said; it ended well."""
    # Of the tests' own: the path to the checkout, and eight devices, which take their time.
    ours = ("PYTHONPATH", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    process = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, **options
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def environment(folder, package):
    """The scripts of an environment with a package and all that is installed here."""
    venv.create(folder)
    done(*PIP, "--python", folder / "bin/python", "install", *OFFLINE, package)
    # What lies in a folder that is named like this is found, but the hooks of an editable
    # installation there are not run.
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "here.pth").write_text(f"{pathlib.Path(jax.__file__).parents[1]}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy: what an earlier build has left in the checkout would be taken too."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    done(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", target, source)
    (built,) = target.iterdir()
    return built


def test_what_is_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = {name.partition("/")[0] for name in names} - {"bbo"}
        scripts, top_level, metadata = (
            archive.read(f"{about}/{name}").decode()
            for name in ("entry_points.txt", "top_level.txt", "METADATA")
        )
    assert about == "batch_bridgeout-0.1.0.dist-info" and top_level == "bbo\n"
    for folder in ("bbo", "experiments", "launch"):
        place = "" if folder == "bbo" else "bbo/_programs/"
        modules = {f"{place}{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
        sweeps = {name for name in modules if "/experiments/sweeps/" in name}
        assert modules - sweeps <= names
    published = (ROOT / "experiments/published").glob("*.csv")
    data = {f"bbo/_programs/experiments/published/{path.name}" for path in published}
    assert len(data) == 6
    job = "bbo/_programs/launch/slurm/job.sh"
    assert data | {"bbo/py.typed", job, f"{about}/licenses/LICENSE"} <= names
    programs = ("run", "prepare", "report", "compact", "benchmark", "scale", "launch")
    for name in programs:
        assert f"\nbbo-{name} = bbo.__main__:{name}\n" in scripts
    assert scripts.count(" = ") == len(programs)
    assert "\nName: batch-bridgeout\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_its_programs_run_from_another_folder(wheel, tmp_path):
    scripts = environment(tmp_path / "environment", wheel)
    assert "  bbo-run --noise=dropout" in done(scripts / "bbo-run", "--help", cwd=tmp_path)
    settings = ("--epochs=1", "--sparsities=0,0.5", "--granularity=filter", "--recovery=none")
    (tmp_path / "spec.py").write_text(
        "SCRIPT = 'experiments.run'\nruns = lambda: [dict(noise='none', epochs=2), {}]\n"
    )
    told = done(scripts / "bbo-run", "--noise=none", "--workdir=one", *settings, cwd=tmp_path)
    assert told.endswith("Folder: one\n")
    with open(tmp_path / "one/curve.csv", encoding="utf-8") as file:
        assert [row["sparsity"] for row in csv.DictReader(file)] == ["0.0", "0.5"]
    planned = done(scripts / "bbo-launch", "local", "spec.py", "two", "--dry_run", cwd=tmp_path)
    start = f"{scripts}/python -m bbo experiments.run --workdir=two/"
    assert planned == f"{start}0000 --noise=none --epochs=2\n{start}0001\n"
    shown = done(scripts / "python", "-m", "bbo", "experiments.report", "--help", cwd=tmp_path)
    assert "bbo-report runs/digits --out=report" in shown


def test_an_installed_checkout_has_them_by_their_own_names(source, tmp_path):
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    done(sys.executable, "-c", code, tmp_path, cwd=source)
    (editable,) = tmp_path.glob("*.whl")
    scripts = environment(tmp_path / "environment", editable)
    usage = done(scripts / "python", "-m", "experiments.run", "--help", cwd=tmp_path)
    assert "  python -m experiments.run --noise=dropout" in usage
    assert done(scripts / "bbo-run", "--help", cwd=tmp_path) == usage
    places = "import bbo, experiments, launch; print(*bbo.__path__, *experiments.__path__)"
    found = done(scripts / "python", "-c", places, cwd=tmp_path)
    assert found == f"{source}/bbo {source}/experiments\n"
