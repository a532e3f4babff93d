"""What is passed on to sbatch: the notations of time limits and signals, and what is refused."""

import math

import pytest

from bbo.types import UsageError
from launch.slurm import sbatch


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("005", 300),
        ("4:01", 300),
        ("4:00", 240),
        ("1:02:03", 3780),
        ("1-2", 26 * 3600),
        ("1-2:30", 26.5 * 3600),
        ("1-2:30:00", 26.5 * 3600),
        ("0-0:10", 600),
        ("0", math.inf),
        ("0:00", math.inf),
        ("infinite", math.inf),
        ("UNLIMITED", math.inf),
        ("-1", math.inf),
    ],
)
def test_time_limits(text, seconds):
    assert sbatch.time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "1-2:3:4:5", "1-", "-5", "1.5", "now"])
def test_no_time_limits(text):
    with pytest.raises(UsageError, match="is no time limit; give minutes, MINUTES:SECONDS"):
        sbatch.time_limit(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("TERM@120", 120), ("term@30", 30), ("SIGTERM@5", 5), ("15@7", 7), ("TERM", 60), ("R:15", 60)],
)
def test_leads(text, seconds):
    assert sbatch.lead(text) == seconds


@pytest.mark.parametrize("text", ["USR1@120", "B:TERM@120", "RB:TERM", "10@60", "TERM@", "TERM@1m"])
def test_signals_that_runs_do_not_see(text):
    with pytest.raises(UsageError, match="which save on SIGTERM; give --signal=TERM@SECONDS"):
        sbatch.check([f"--signal={text}"])


@pytest.mark.parametrize(
    "options",
    [
        ["--time=3:00"],
        ["--time", "3"],
        ["-t", "3"],
        ["-t3"],
        ["-t", "60", "--time=3"],
        ["--time=3:59:00", "--signal=TERM@7200"],
        ["--signal", "TERM@91", "-p", "x", "-t", "3"],
    ],
)
def test_time_limits_that_are_too_short(options):
    with pytest.raises(UsageError, match="is too short: SIGTERM comes"):
        sbatch.check(options)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-p", "gpu", "--gres=gpu:1", "-c", "8", "--time=4:00:00"],
        ["--time=4"],
        ["--time=3:01"],  # is four minutes to SLURM
        ["--time=1", "--signal=TERM@30"],
        ["--time=3", "-t", "60"],
        ["--time=0"],
        ["--time-min=1", "--wait-all-nodes=1", "--account=a", "-A", "a"],
    ],
)
def test_accepted(options):
    sbatch.check(options)


def test_settings_of_the_environment_count_and_yield(monkeypatch):
    monkeypatch.setenv("SBATCH_TIMELIMIT", "3")
    with pytest.raises(UsageError, match="--time=3 is too short.*at least 4 minutes"):
        sbatch.check([])
    sbatch.check(["--time=4"])
    monkeypatch.setenv("SBATCH_SIGNAL", "USR1")
    with pytest.raises(UsageError, match="--signal=USR1"):
        sbatch.check(["--time=4"])
    sbatch.check(["--time=4", "--signal=TERM@9"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--array=1-3"], "--array cannot be passed on.*--parallel bounds"),
        (["-a1-3"], "--array cannot be passed on"),
        (["-W"], "--wait cannot be passed on.*launch.status"),
        (["-M", "all"], "--clusters cannot be passed on.*SLURM_CLUSTERS"),
        (["--wrap=true"], "--wrap cannot be passed on.*job.sh"),
        (["--gpus-per-task=1"], "--gpus-per-task cannot be passed on.*a node, --gres=gpu:N$"),
        (["--gpus-per-task", "1"], "--gpus-per-task cannot be passed on"),
    ],
)
def test_refused(options, said):
    with pytest.raises(UsageError, match=said):
        sbatch.check(options)
