"""What is asked of squeue, and what is taken from its answer."""

import fake_slurm
import pytest

from bbo.types import UsageError
from launch.slurm import squeue


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    return fake_slurm.install(tmp_path, monkeypatch)


def test_a_queue_is_asked_for_only_if_something_was_submitted(tmp_path, monkeypatch, fakes):
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    assert squeue.queued(tmp_path) == {} and not (fakes / "squeue.env").exists()
    (tmp_path / "jobs").touch()
    assert squeue.queued(tmp_path) == {} and not (fakes / "squeue.env").exists()
    for text in ("17\n", "17 0\n", "17 x digits\n", "\n"):
        (tmp_path / "jobs").write_text(text)
        with pytest.raises(
            UsageError, match="jobs must hold a job id, an offset and a name a line"
        ):
            squeue.queued(tmp_path)
    (tmp_path / "jobs").write_text("17 0 digits\n")
    assert squeue.queued(tmp_path) == {}
    assert "SQUEUE_STATES" not in (fakes / "squeue.env").read_text()


def test_a_job_that_has_the_id_of_ours_by_chance(tmp_path, fakes):
    """After SLURM has begun anew with its ids: no array, or another's."""
    (tmp_path / "jobs").write_text("17 0 digits\n18 10 my |digits\n19 0 digits\n")
    (fakes / "queue").write_text(
        "17|N/A|RUNNING|0:05|n1|digits\n"
        "18|2|RUNNING|10:00|n[1-2]|my |digits\n"
        "19|4|RUNNING|0:05|n1|another digits\n"
    )
    assert squeue.queued(tmp_path) == {12: ("RUNNING", "10:00", "n[1-2]")}
