"""Programs end in one line and a status; flags of one program do not leak into the next."""

import errno
import os
import subprocess
import sys

import pytest
from absl import flags
from mistakes import check_told

from bbo.types import Interrupted, UsageError
from experiments.command_line.program import run_program


def program():
    flag_values = flags.FlagValues()
    flags.DEFINE_integer("steps", 3, "how many steps", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_string("name", "x", "a name", flag_values=flag_values)
    return flag_values


def run(argv, main=lambda flag_values: None, flag_values=None):
    return run_program(main, flag_values or program(), ["program", *argv])


def test_values_reach_main_and_do_not_outlive_a_run():
    seen = []
    flag_values = program()
    main = lambda values: seen.append((values.steps, values.name))  # noqa: E731
    assert run(["--steps=5", "--name", "y"], main, flag_values) == 0
    assert run([], main, flag_values) == 0
    assert seen == [(5, "y"), (3, "x")]
    assert "steps" not in flags.FLAGS


def test_status_of_main_is_returned():
    assert run([], lambda values: 7) == 7


def check_error(capsys, status, *parts):
    assert status == 2
    check_told(capsys, *parts)


def test_mistakes_end_in_one_line(capsys):
    check_error(capsys, run(["--stps=5"]), "stps")
    check_error(capsys, run(["--steps=many"]), "--steps=many")
    check_error(capsys, run(["--steps=0"]), "steps")
    check_error(capsys, run(["steps=5"]), "unexpected argument 'steps=5'")

    def main(values):
        raise UsageError("two\nlines")

    check_error(capsys, run([], main), "two lines")


def test_interrupt(capsys):
    def main(values):
        raise KeyboardInterrupt

    assert run([], main) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again\n"

    def save(values):
        raise Interrupted(3)

    assert run([], save) == 130
    told = "interrupted; saved, the same command goes on from there\n"
    assert capsys.readouterr().err == told


def test_help_shows_each_flag_with_its_default(capsys):
    assert run(["--steps=0", "--help"], lambda values: 1 / 0) == 0
    out = capsys.readouterr().out
    for part in (__doc__, "--steps: how many steps", "default: '3'", "--name: a name"):
        assert part in out


def test_a_full_disk_ends_in_one_line(capsys):
    def main(values):
        raise OSError(errno.ENOSPC, "No space left on device", "curve.csv")

    assert run([], main) == 1
    assert capsys.readouterr().err == "failed: No space left on device (curve.csv)\n"


def test_arguments_that_are_no_flags_are_named(capsys):
    seen = []

    def main(values, spec, out):
        seen.append((values.steps, spec, out))

    def call(*argv):
        return run_program(main, program(), ["program", *argv], positional=("SPEC", "OUT"))

    assert call("a", "--steps=2", "b") == 0 and seen == [(2, "a", "b")]
    check_error(capsys, call("a"), "OUT is missing")
    check_error(capsys, call("a", "b", "c"), "unexpected argument 'c'")


PROGRAM = """
import sys
from absl import flags
from experiments.command_line.program import run_program
def main(values):
    print("\u00e4")
    print("told", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        print(file.fileno(), file=file)
sys.exit(run_program(main, flags.FlagValues(), ["program"]))
"""


@pytest.mark.parametrize(
    ("closed", "printed", "told"),
    [
        ("", "\\xe4\n", "told\n"),
        ("2>&-", "\\xe4\n", ""),
        (">&-", "", "told\n"),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_a_program_needs_no_streams_and_any_terminal_will_do(closed, printed, told, tmp_path):
    command = [
        "bash",
        "-c",
        f'"$@" {closed}',
        "-",
        sys.executable,
        "-c",
        PROGRAM,
        tmp_path / "file",
    ]
    ascii_only = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, told)
    assert int((tmp_path / "file").read_text()) > 2  # libraries write errors to 2
