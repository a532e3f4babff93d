"""Files: lines with digests, digests of files and arrays; every flipped bit is seen."""

import numpy as np
import pytest

from bbo import files


def test_a_line_with_a_digest_is_read_or_left_out(tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    rows = [{"number": 0.1 + i, "text": "é"} for i in range(2)]
    files.write_lines(path, rows)
    content = path.read_bytes()
    first = content.index(b"\n")
    for place in range(first):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            assert files.read_lines(path) == rows[1:], (place, bit)
            with pytest.raises(ValueError, match="line 1 is damaged"):
                files.read_lines(path, strict=True)
    assert f"{path} is damaged: left out line 1" in caplog.messages
    caplog.clear()
    for length in range(first + 2, len(content) - 1):
        path.write_bytes(content[:length])  # as a crash does: no warning
        assert files.read_lines(path, strict=True) == rows[:1]
    assert not caplog.messages


def test_what_is_set_aside_replaces_nothing(tmp_path):
    for text in "ab":
        (tmp_path / "x").write_text(text)
        files.set_aside(tmp_path / "x")
    held = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert held == {"x.damaged": "a", "x.damaged2": "b"}


def test_digests_of_files(tmp_path):
    (tmp_path / "a").write_text("one")
    assert files.changed_files(tmp_path, ["a"]) is None
    text = files.sums_of(tmp_path, ["a"], b="two")
    assert text.splitlines()[0] == (
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  a"
    )
    (tmp_path / files.SUMS).write_text(text)
    assert files.changed_files(tmp_path, ["a", "b"]) == ["b"]
    (tmp_path / "b").write_text("two")
    assert files.changed_files(tmp_path, ["a", "b"]) == []
    assert files.changed_files(tmp_path, ["a", "c"]) == [files.SUMS]
    (tmp_path / "a").write_text("ones")
    assert files.changed_files(tmp_path, ["a"]) == ["a"]
    # A line that names no file is not taken for one that names the folder.
    (tmp_path / files.SUMS).write_text(text.replace("  b", "! b"))
    assert files.changed_files(tmp_path, ["a"]) == [files.SUMS]
    for name in ("../b", "/b", "stage/../../b"):
        (tmp_path / files.SUMS).write_text(f"{text}{'0' * 64}  {name}\n")
        assert files.changed_files(tmp_path, ["a"]) == [files.SUMS]


def test_a_digest_of_arrays_is_of_their_bits_and_names():
    arrays = {"a": np.float32([[0.0, 1.0]]), "b": np.int32(3)}
    found = files.digest_of_arrays(arrays)
    assert files.digest_of_arrays(dict(reversed(arrays.items()))) == found
    others = [
        {"a": np.float32([[-0.0, 1.0]])},
        {"a": np.float32([0.0, 1.0])},
        {"a": np.int32([[0, 1065353216]])},
        {"c": np.int32(3)},
    ]
    assert found not in {files.digest_of_arrays(arrays | other) for other in others}
