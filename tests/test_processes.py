"""The tests' own processes: what they say is read, however much it is."""

import subprocess

import pytest
from processes import finish, start

WAITS = """
import os, pathlib, sys, time
meeting = pathlib.Path(sys.argv[1])
if os.environ["SLURM_PROCID"] == "1":
    print("x" * 1_000_000, flush=True)  # more than a pipe holds
    meeting.touch()
while not meeting.exists():
    time.sleep(0.01)
sys.exit(3)
"""


def test_one_may_wait_for_another_that_says_much(tmp_path):
    processes = start(["-c", WAITS, str(tmp_path / "meeting")], count=2, devices=1)
    statuses, outputs = finish(processes, timeout=60)
    assert statuses == [3, 3]
    assert [len(output) for output in outputs] == [0, 1_000_001]


def test_none_is_left_running_when_time_is_up():
    processes = start(["-c", "import time; time.sleep(600)"], count=2, devices=1)
    with pytest.raises(subprocess.TimeoutExpired):
        finish(processes, timeout=0.5)
    assert [process.wait(10) for process in processes] == [-9, -9]
    for process in processes:
        process.communicate()
