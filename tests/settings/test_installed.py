"""The programs are found, and called by their names, wherever the package is installed."""

import os
import pathlib
import subprocess
import sys

import pytest

from bbo.settings import installed

ROOT = pathlib.Path(__file__).parents[2]


def python(folder, *arguments, path=ROOT):
    """What Python does in a folder where nothing but a path tells of the checkout."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_in_a_checkout_programs_are_modules():
    assert installed.programs_folder() == ROOT and not installed.in_wheel()
    assert installed.with_names_here("python -m launch.local") == "python -m launch.local"


def test_in_a_wheel_programs_are_console_scripts(tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "INSIDE", tmp_path)
    assert installed.programs_folder() == tmp_path and installed.in_wheel()
    text = "python -m launch.local SPEC; python -m experiments.run --seed=1; python -m pytest"
    here = "bbo-launch local SPEC; bbo-run --seed=1; python -m pytest"
    assert installed.with_names_here(text) == here


def test_our_programs_are_started_beside_another_folder_of_the_name(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").write_text("raise AssertionError('not ours')")
    (tmp_path / "mine.py").write_text("import sys, launch; print(sys.argv[1:], __name__)")
    done = python(tmp_path, "-m", "bbo", "experiments.run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("One experiment:")
    assert python(tmp_path, "-m", "bbo", "mine", "--a=1").stdout == "['--a=1'] __main__\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("no.such",), "error: there is no module 'no.such'; name one as for python -m\n"),
        (("experiments.no",), "error: there is no module 'experiments.no'; name one as for"),
        (("launch.status",), "error: OUT is missing; --help tells what it is\n"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, given, told):
    done = python(tmp_path, "-m", "bbo", *given)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(told) and done.stderr.count("\n") == 1


def test_a_launcher_is_named_by_its_last_part(tmp_path):
    def launched(*arguments):
        code = "import sys; from bbo import __main__; sys.exit(__main__.launch())"
        return python(tmp_path, "-c", code, *arguments)

    assert launched("status", "--help").stdout.startswith("What has become of the runs")
    refused = launched("bus")
    allowed = "local, slurm, tpu, k8s, status, sweep"
    told = f"error: the launcher is 'bus'; it must be one of {allowed}\n"
    assert (refused.returncode, refused.stderr) == (2, told)
