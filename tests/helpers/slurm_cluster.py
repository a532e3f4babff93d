"""A private SLURM cluster for tests: two nodes on this machine, in one folder, as any user.

Nothing outside of the folder is read or written, and ports are free ones, so several clusters may
run at once. Nodes n1 and n2 have four CPUs and two pretended GPUs each; jobs in partition urgent
preempt those in main.
"""

import contextlib
import datetime
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
USER = pwd.getpwuid(os.geteuid()).pw_name  # whatever LOGNAME says
MAX_ARRAY_SIZE = 9
"""Small, so that splitting an array is tested with few runs."""

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ReturnToService=2
KillWait=5
MinJobAge=3600
MaxArraySize={max_array_size}
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{port_1}-{port_2}] {size}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""


class Cluster(NamedTuple):
    """A cluster that is running."""

    folder: pathlib.Path
    environment: dict[str, str]
    """In which SLURM's commands talk to it."""

    def call(self, *command: str, check: bool = True) -> str:
        """What a command prints; stderr too."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def job(self, name: str) -> dict[str, str]:
        """What the controller knows of a job such as ``12_3``, also for an hour after its end."""
        # A value may hold blanks and equals signs, those that are of interest do not.
        words = self.call("scontrol", "show", "job", "--oneliner", name).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_state(self, name: str, state: str, seconds: float = 60) -> dict[str, str]:
        """Waits until a job is in a state such as RUNNING or FAILED; gives all about it."""
        wait_for(lambda: self.job(name)["JobState"] == state, seconds)
        return self.job(name)

    def wait_for_requeue(self, name: str) -> None:
        """Waits until a job is in the queue again, and has it start; SLURM would, in 121 s."""
        wait_for(lambda: self.job(name)["Restarts"] != "0", 120)

        def has_started() -> bool:
            job = self.job(name)
            later = datetime.datetime.now() + datetime.timedelta(seconds=10)
            # Maybe twice: while a job still ends, its time to start is not yet set.
            if job["JobState"] == "PENDING" and job["EligibleTime"] > later.isoformat():
                time.sleep(1.5)  # in the same second its credential is still the revoked one
                self.call("scontrol", "update", f"jobid={name}", "StartTime=now", check=False)
            return job["JobState"] in ("RUNNING", "COMPLETED")

        wait_for(has_started, 60)

    def terminate(self, task: str) -> None:
        """Sends SIGTERM to the processes of a job, as preemption does."""
        # SLURM goes on trying while the task is in the queue again; so not for long.
        self.call("timeout", "2", "scancel", "--signal=TERM", task, check=False)

    def urgent_job(self) -> str:
        """Submits a job that takes both nodes for a moment, from whoever has them; its id."""
        what = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
        return self.call("sbatch", "--parsable", *what, "--wrap=true").strip()

    def clear(self) -> None:
        """Cancels all jobs and waits for their end."""
        self.call("scancel", "--user", USER)
        wait_for(lambda: not self.call("squeue", "--noheader"), 60)


class Sweep:
    """A sweep in a folder, and its last submission."""

    def __init__(self, cluster: Cluster, folder: pathlib.Path, script: str):
        # A sign that has a meaning to SLURM, and a blank.
        self.cluster, self.folder, self.script = cluster, folder, script
        self.out, self.job = folder / "out %j", ""

    def launch(self, how: str, runs: list[dict], *arguments: str, status: int = 0, **environment):
        """Calls a launcher with a spec of these runs; gives what it prints."""
        spec = f"SCRIPT = {self.script!r}\ndef runs():\n    yield from {runs}\n"
        (self.folder / "spec.py").write_text(spec)
        path = os.pathsep.join(map(str, (ROOT, self.folder, ROOT / "tests/helpers")))
        done = subprocess.run(
            [sys.executable, "-m", f"launch.{how}", self.folder / "spec.py", self.out, *arguments],
            env=self.cluster.environment | {"PYTHONPATH": path} | environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def submit(self, runs: list[dict], *options: str, before=(), **rest) -> str:
        """Submits the sweep; ``job`` is then the id of its first array."""
        said = self.launch("slurm", runs, *before, "--", *options, **rest)
        if jobs := re.findall(r"^job (\d+)", said, re.MULTILINE):
            self.job = jobs[0]
        return said

    def workdir(self, index: int) -> pathlib.Path:
        """The folder of a run."""
        return self.out / f"{index:04d}"

    def task(self, index: int) -> str:
        """What SLURM calls a run of the first array."""
        return f"{self.job}_{index}"

    def done(self, index: int) -> bool:
        """Whether a run has come to its end."""
        return (self.workdir(index) / "summary.json").exists()

    def wait_until_done(self, index: int, seconds: float = 60) -> None:
        """Until the job of a run ends well."""
        self.cluster.wait_for_state(self.task(index), "COMPLETED", seconds)
        assert self.done(index), self.log(index)

    def log(self, index: int) -> str:
        """What the job of a run has printed."""
        return (self.out / f"logs/slurm-{self.task(index)}.log").read_text()


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """A cluster in a folder of its own; without SLURM the test that asks is skipped.

    Not so where BBO_REQUIRE_SLURM is 1: there it fails, lest nobody notices.
    """
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))  # not every user's holds it
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        stop = pytest.fail if os.environ.get("BBO_REQUIRE_SLURM") == "1" else pytest.skip
        stop(f"needs SLURM, there is no {', '.join(missing)} (Debian: slurm-wlm and munge)")
    # The path of a socket may not be long, as those of pytest are.
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        with running(Cluster(folder, environment)) as cluster:
            yield cluster


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Starts the daemons of a cluster and stops them."""
    try:
        _start(cluster)
        yield cluster
        cluster.clear()
    finally:
        _stop(cluster.folder)


def _start(cluster: Cluster) -> None:
    folder = cluster.folder
    words = {
        "host": socket.gethostname().partition(".")[0],
        "user": USER,
        "folder": folder,
        "size": "CPUs=4 RealMemory=4000 Gres=gpu:2",
        "max_array_size": MAX_ARRAY_SIZE,
        **dict(zip(("port", "port_1", "port_2"), consecutive_ports(3), strict=True)),
    }
    (folder / "slurm.conf").write_text(CONF.format(**words))
    # Any files that exist will do for GPUs that nobody opens.
    devices = [folder / "gpu0", folder / "gpu1"]
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in devices))
    for file in devices:
        file.touch()
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    munge = {"socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
    munge |= {"key-file": key.name, "seed-file": "munge.seed"}
    conf = ["-f", str(folder / "slurm.conf")]
    daemons = [
        ["munged", "--force", *(f"--{name}={folder / file}" for name, file in munge.items())],
        ["slurmctld", *conf],
        *(["slurmd", *conf, "-N", node] for node in ("n1", "n2")),
    ]
    for daemon in daemons:
        cluster.call(*daemon)
    both_idle = lambda: cluster.call("sinfo", "-ho", "%N %t", "-p", "main") == "n[1-2] idle\n"  # noqa: E731
    wait_for(both_idle, 30)


def _stop(folder: pathlib.Path) -> None:
    """Stops the daemons, whose ids are in files that they remove as they end."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for file in folder.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), kind)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not list(folder.glob("*.pid")), 10)
            return


def consecutive_ports(number: int) -> list[int]:
    """Ports in a row, as SLURM wants them, that were free a moment ago."""
    while True:
        ports = range(first := random.randrange(20000, 32000), first + number)
        with contextlib.ExitStack() as bound, contextlib.suppress(OSError):
            for port in ports:
                bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(ports)


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """What ``condition`` gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.1)
    return found
