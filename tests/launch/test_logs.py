"""Locks on logs, and their last lines."""

import contextlib
import fcntl

from launch import logs


def test_who_asks_whether_a_run_is_running_does_not_keep_it_from_starting(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    assert not logs.is_running(tmp_path, 0) and not logs.log_path(tmp_path, 0).exists()
    logs.log_path(tmp_path, 0).touch()
    asker = logs.log_path(tmp_path, 0).open("rb")
    fcntl.flock(asker, fcntl.LOCK_SH)
    assert not logs.is_running(tmp_path, 0)  # both only look
    monkeypatch.setattr(logs.time, "sleep", lambda seconds: asker.close())
    with contextlib.closing(logs.open_locked(tmp_path, 0)):
        assert logs.is_running(tmp_path, 0)


def test_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"before\n\x1b[31mred\x1b[0m\r\r\n 1 %\r 2 %\n\xff\n\n")
    assert logs.last_lines(log, 7, 10) == ["red", " 1 %", " 2 %", "\ufffd"]
    assert logs.last_lines(log, 0, 2) == [" 2 %", "\ufffd"]
    log.write_bytes(b"x" * 3 * logs.LOOKED_AT + b"\nend")
    assert logs.last_lines(log, 0, 1) == ["end"]
    assert logs.last_lines(tmp_path / "tidied away", 0, 1) == []
