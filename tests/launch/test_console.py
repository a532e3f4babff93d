"""On a terminal what goes on is redrawn in place; lines that stay are above it."""

import contextlib
import os
import pty
import select

import pytest
from launching import PATIENCE, holds, launcher, lines, prepare, wait_for, write_spec

from launch import console


@pytest.fixture
def out(tmp_path, monkeypatch):
    yield from prepare(tmp_path, monkeypatch)


def test_on_a_terminal_the_runs_in_progress_are_redrawn_in_place(out):
    write_spec(out, {"seed": 0, "hold": 2}, {"seed": 1, "hold": 2})
    ours, theirs = pty.openpty()
    process = launcher(out, stderr=theirs)
    os.close(theirs)
    seen = ""

    def read():
        assert select.select([ours], [], [], PATIENCE)[0], f"nothing comes after {seen[-200:]!r}"
        with contextlib.suppress(OSError):  # Linux, at the end
            return os.read(ours, 4096).decode()

    while "step 2/3" not in seen:
        seen += read() or pytest.fail(f"it has ended: {seen!r}")
    (out / "go").touch()
    while more := read():
        seen += more
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    block = "\r\x1b[J0 done, 1 running, 1 waiting, 0 failed; 0:00:0"
    assert block in seen
    assert "\r\n  0  seed=0  step 2/3\r\n\x1b[2A\r\x1b[J" in seen
    assert "\r\x1b[Jrun 0 done in 0:00:0" in seen
    assert seen.endswith("\r\x1b[Jof 2 runs: 2 done\r\n")


def test_a_drawing_fits_the_terminal():
    assert console.drawing(["one\ttwo", "x" * 100, "three"], columns=9, rows=3) == (
        "\r\x1b[Jone two\n" + "x" * 8 + "\n\x1b[2A"
    )


def test_a_terminal_that_is_gone_does_not_take_the_runs_along(out):
    write_spec(out, {"seed": 0, "hold": 1}, {"seed": 1})
    ours, theirs = pty.openpty()
    process = launcher(out, stderr=theirs)
    os.close(theirs)
    wait_for(lambda: holds(out, 0))
    os.close(ours)
    (out / "go").touch()
    assert process.wait(PATIENCE) == 0
    assert [lines(out, index, "steps") for index in range(2)] == [[0, 1, 2]] * 2
