"""The folder of a run: what it refuses, and that files are whole or absent."""

import json
import os
import pathlib
import subprocess

import jax
import pytest

from bbo import files
from bbo.settings import provenance
from bbo.settings import workdir as workdirs
from bbo.settings.config import ExperimentConfig, override, to_json
from bbo.types import UsageError

CONFIG = ExperimentConfig()


def record(config):
    return {"config": to_json(config), "environments": []}


def check_refused(folder, message, config=CONFIG):
    with pytest.raises(UsageError, match=message):
        workdirs.claim(folder, config)


def test_claim_writes_nothing(tmp_path):
    workdirs.claim(tmp_path, CONFIG)
    workdirs.claim(tmp_path / "not" / "yet", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_claim_refuses_what_is_not_a_folder_of_a_run(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    check_refused(file, "file is a file; name a folder")
    check_refused(file / "inside", "cannot be made")
    check_refused(tmp_path, "holds files but no run")
    assert file.read_text() == "mine"


def test_claim_names_the_settings_that_differ(tmp_path):
    files.write_json(tmp_path / "config.json", record(CONFIG))
    workdirs.claim(tmp_path, CONFIG)
    other = override(CONFIG, q=1.0, epochs=3, sparsities=(0.0, 0.5))
    with pytest.raises(UsageError, match="another configuration") as caught:
        workdirs.claim(tmp_path, other)
    message = str(caught.value)
    assert "q is 1.5 there, 1.0 here" in message and "epochs is 230 there, 3 here" in message
    assert "sparsities is" in message and "learning_rate" not in message


def test_where_data_lies_does_not_count(tmp_path):
    files.write_json(tmp_path / "config.json", record(CONFIG))
    workdirs.claim(tmp_path, override(CONFIG, data_dir="/elsewhere", cache_dir="/other"))


def test_a_setting_newer_than_the_record_has_its_default_there(tmp_path):
    held = record(CONFIG)
    del held["config"]["optimizer"]["reset_momentum"]
    files.write_json(tmp_path / "config.json", held)
    workdirs.claim(tmp_path, CONFIG)
    with pytest.raises(UsageError, match="reset_momentum is False there, True here"):
        workdirs.claim(tmp_path, override(CONFIG, reset_momentum=True))


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"environments": []}', "\udcff"])
def test_claim_refuses_a_config_it_cannot_read(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    check_refused(tmp_path, "config.json cannot be read as the configuration")


@pytest.mark.parametrize("held", [None, [], {"data": 3}, {"data": None}])
def test_claim_refuses_a_config_of_another_form(tmp_path, held):
    files.write_json(tmp_path / "config.json", {"config": held})
    check_refused(tmp_path, "name another workdir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_claim_refuses_a_folder_it_cannot_write(tmp_path):
    tmp_path.chmod(0o500)
    check_refused(tmp_path / "run", "no permission")


def test_claim_refuses_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: pathlib.Path(path) != tmp_path)
    check_refused(tmp_path / "new" / "run", f"no permission in {tmp_path}$")


def test_finished_is_the_run_with_a_summary(tmp_path):
    assert not workdirs.is_finished(tmp_path)
    files.write_json(tmp_path / "summary.json", {})
    assert workdirs.is_finished(tmp_path)


def leave_run(folder):
    """What a finished run leaves, as far as digests go."""
    folder.mkdir()
    for name in workdirs.RECORDS:
        (folder / name).write_text("{}")
    (folder / files.SUMS).write_text(files.sums_of(folder, workdirs.RECORDS))


@pytest.mark.parametrize("name", [*workdirs.RECORDS, files.SUMS])
def test_what_is_damaged_is_not_done(name, tmp_path):
    leave_run(tmp_path / "seed_0")
    assert workdirs.is_done(tmp_path / "seed_0")
    # Of several that lie in one folder all are asked.
    files.write_json(tmp_path / "summary.json", {"runs": ["seed_0"]})
    assert workdirs.is_done(tmp_path)
    (tmp_path / "seed_0" / name).write_text("")
    assert workdirs.is_finished(tmp_path / "seed_0")
    assert not workdirs.is_done(tmp_path / "seed_0") and not workdirs.is_done(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[3]", '{"runs": 3}', '{"runs": [null, ".", "."]}'])
def test_without_digests_the_summary_alone_counts(text, tmp_path):
    assert not workdirs.is_done(tmp_path)
    (tmp_path / "summary.json").write_text(text)
    assert workdirs.is_done(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    files.write_text(path, "old é\n")
    assert path.read_text(encoding="utf-8") == "old é\n"
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \udcff")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old é\n"
    assert list(tmp_path.iterdir()) == [path]


def test_every_setting_has_a_folder_of_its_own():
    changes = [{}, {"seed": 1}, {"q": 1.0}, {"sparsities": (0.0,)}, {"model": "thin_resnet18"}]
    folders = [workdirs.default_workdir(override(CONFIG, **change)) for change in changes]
    assert len(set(folders)) == len(changes)
    assert folders[0] == workdirs.default_workdir(ExperimentConfig())
    assert folders[0].parent == pathlib.Path("runs")
    assert folders[0].name.startswith("digits_small_cnn_batch_bridgeout_")


def test_environment_says_what_ran(monkeypatch, tmp_path):
    environment = provenance.environment()
    assert set(environment["versions"]) == set(provenance.PACKAGES)
    assert environment["device"] == "cpu" and environment["num_devices"] == 8
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.source_commit() is None


def test_the_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(provenance.os, "sched_getaffinity", lambda _: {4, 0, 1}, raising=False)
    environment = provenance.environment()
    assert environment["affinity"] == "0-1,4"
    assert environment["platform"].endswith(", 3 CPU cores") and environment["processor"]


def test_other_settings_of_jax_are_told_and_recorded(tmp_path, caplog):
    workdirs.record_start(tmp_path, CONFIG)
    workdirs.record_start(tmp_path, CONFIG)
    assert caplog.text == ""
    with jax.default_matmul_precision("highest"):
        workdirs.record_start(tmp_path, CONFIG)
    assert "goes on under other settings of jax" in caplog.text
    first, second = json.loads((tmp_path / "config.json").read_text())["environments"]
    before = first.get("jax_settings", {})
    assert second["jax_settings"] == before | {"jax_default_matmul_precision": "highest"}


def test_the_commit_of_another_project_is_not_ours(tmp_path, monkeypatch):
    """An environment lies in the folder of the project that it is for, as a rule."""
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e"]
    file = tmp_path / ".venv/bbo/settings/provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-qm", "theirs", "--allow-empty"], check=True)
    assert provenance.source_commit() is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "ours"], check=True)
    commit = provenance.source_commit()
    assert commit is not None and len(commit) == 40


def test_a_copy_of_the_source_tells_its_commit(tmp_path, monkeypatch):
    (tmp_path / "bbo").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "bbo/settings/provenance.py"))
    assert provenance.source_commit() is None
    (tmp_path / "COMMIT").write_text("0123abc\n")
    assert provenance.source_commit() == "0123abc"


def test_lines_come_back_up_to_one_cut_short(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert files.read_lines(path) == []
    rows = [{"x": 0.1 + 0.2}, {"x": float("-inf"), "name": "b"}]
    files.write_lines(path, rows)
    assert files.read_lines(path) == rows
    path.write_text(path.read_text()[:-3])
    assert files.read_lines(path) == rows[:1]


def test_one_process_works_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "LOCK_SECONDS", 1)
    with workdirs.held(tmp_path), pytest.raises(UsageError, match="another process works in"):
        with workdirs.held(tmp_path):
            pass
    with workdirs.held(tmp_path / "new" / "run"):
        assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == [".lock"]
    workdirs.claim(tmp_path / "new" / "run", CONFIG)  # which holds nothing of another


def test_what_was_claimed_is_asked_again_when_the_folder_is_free(tmp_path):
    folder = tmp_path / "run"
    with workdirs.held_for(folder, CONFIG):
        assert len(json.loads((folder / "config.json").read_text())["environments"]) == 1
    with pytest.raises(UsageError, match="another configuration"):
        with workdirs.held_for(folder, override(CONFIG, q=1.0)):
            pass
    assert json.loads((folder / "config.json").read_text())["config"] == to_json(CONFIG)


def test_a_folder_that_cannot_be_held(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UsageError, match="cannot be made or written: Is a directory"):
        with workdirs.held(tmp_path):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made or written: Not a directory"):
        with workdirs.held(tmp_path / "file" / "run"):
            pass
