"""A full disk is one line, whichever thread meets it, and nothing else is kept back."""

import errno
import logging
import threading

import pytest

from bbo.training.full_disk import is_full, one_line_when_full
from bbo.types import RunError

TEXT = "RESOURCE_EXHAUSTED: Failed to write 132260 bytes: No space left on device"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (ValueError(TEXT), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EACCES, "denied"), False),
        (ValueError("shapes"), False),
    ],
)
def test_full_disks_are_known_by_number_or_text(error, full):
    assert is_full(error) is full
    outer = RuntimeError("saving failed")
    outer.__cause__ = error
    assert is_full(outer) is full


def test_a_full_disk_is_one_error(tmp_path):
    with pytest.raises(RunError, match=f"the disk of {tmp_path} takes no more; what was saved"):
        with one_line_when_full(tmp_path):
            raise ValueError(TEXT)
    with pytest.raises(ValueError, match="shapes"), one_line_when_full(tmp_path):
        raise ValueError("shapes")


def test_threads_and_logs_tell_everything_else(tmp_path, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(str(args.exc_value)))

    def fail(text):
        logging.getLogger("absl").error(text)
        raise ValueError(text)

    with one_line_when_full(tmp_path):
        for text in (TEXT, "something else"):
            thread = threading.Thread(target=fail, args=(text,))
            thread.start()
            thread.join()
    assert told == ["something else"]
    assert [record.getMessage() for record in caplog.records] == ["something else"]
    logging.getLogger("absl").error(TEXT)
    assert caplog.messages[-1] == TEXT
