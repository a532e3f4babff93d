"""Copies of committed source: of the right folder, the right commit, whole, or refused."""

import subprocess

import pytest

from bbo.settings import installed
from bbo.types import UsageError
from launch import snapshot


def git(folder, *arguments):
    command = ["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A checkout with a program below src, and something else."""
    checkout = tmp_path / "checkout"
    for name in ("src/package_of_test/program.py", "src/package_of_test/part.py", "readme"):
        file = checkout / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"NAME = {name!r}\n")
    git(tmp_path, "init", "-q", checkout)
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "all")
    monkeypatch.syspath_prepend(checkout / "src")
    return checkout / "src"


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_from_which_the_script_is_imported_is_copied(source, tmp_path):
    commit = git(source, "rev-parse", "HEAD")
    (source / "untracked.py").touch()
    planned = snapshot.plan("package_of_test.program", tmp_path / "src")
    assert planned == (source, commit, tmp_path / "src" / commit[:10])
    assert not planned.folder.parent.exists()
    snapshot.write(planned)
    programs = {"package_of_test/program.py", "package_of_test/part.py"}
    assert files(planned.folder.parent) == {
        f"{commit[:10]}/{name}" for name in programs | {"COMMIT"}
    }
    assert (planned.folder / "COMMIT").read_text() == commit + "\n"


def test_a_snapshot_is_of_its_commit_and_is_kept(source, tmp_path):
    planned = snapshot.plan("package_of_test.program", tmp_path / "src")
    program = source / "package_of_test/program.py"
    committed = program.read_text()
    program.write_text("later")
    git(source, "commit", "-qam", "later")
    snapshot.write(planned)
    copy = planned.folder / "package_of_test/program.py"
    assert copy.read_text() == committed
    copy.write_text("not touched again")
    snapshot.write(planned)
    assert copy.read_text() == "not touched again"
    later = snapshot.plan("package_of_test.program", tmp_path / "src")
    snapshot.write(later)
    assert (later.folder / "package_of_test/program.py").read_text() == "later"
    assert len(list(planned.folder.parent.iterdir())) == 2


def test_changed_source_is_refused(source, tmp_path):
    (source.parent / "readme").write_text("is not part of the source")
    snapshot.plan("package_of_test.program", tmp_path)
    (source / "package_of_test/part.py").write_text("changed")
    with pytest.raises(UsageError, match="part.py changed: commit first"):
        snapshot.plan("package_of_test.program", tmp_path)


def test_what_is_part_of_an_installed_package_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "INSIDE", source)
    told = "package_of_test.program is part of the installed package, .* leave --snapshot out"
    with pytest.raises(UsageError, match=told):
        snapshot.plan("package_of_test.program", tmp_path / "src")


def test_source_that_git_does_not_know_is_refused(source, tmp_path, monkeypatch):
    (source / "new_program_of_test.py").touch()
    with pytest.raises(UsageError, match="new_program_of_test"):
        snapshot.plan("new_program_of_test", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "free_program_of_test.py").touch()
    monkeypatch.syspath_prepend(elsewhere)
    with pytest.raises(UsageError, match="not a git repository"):
        snapshot.plan("free_program_of_test", tmp_path)
    with pytest.raises(UsageError, match="the source of sys is not found"):
        snapshot.plan("sys", tmp_path)


def test_a_place_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").touch()
    planned = snapshot.plan("package_of_test.program", tmp_path / "file")
    with pytest.raises(UsageError, match="--snapshot cannot write .*Not a directory"):
        snapshot.write(planned)


def test_without_git(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="needs git"):
        snapshot.plan("package_of_test.program", tmp_path)
