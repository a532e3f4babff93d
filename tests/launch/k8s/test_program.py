"""A sweep on Kubernetes: each run is submitted once, mistakes are told."""

import json

import fake_kubectl
import pytest
from fake_kubectl import calls, finish, launch, name_of
from launching import write_program
from mistakes import check_told

from bbo.types import RunError, UsageError
from launch.k8s import program as k8s

TPU = ("--accelerator=tpu-v5-lite-podslice", "--topology=4x4")


@pytest.fixture
def place(tmp_path, monkeypatch):
    return fake_kubectl.install(tmp_path, monkeypatch)


def test_each_run_is_submitted_once(place, capsys):
    sweep = name_of(place)
    finish(place, 1)
    get = ["get", k8s.JOBSETS, f"--selector=bbo/sweep={sweep}", "--output=json"]
    assert launch("--namespace=team") == 0
    assert calls(place) == [
        [[*get, "--namespace=team"], []],
        [["create", "--filename=-", "--namespace=team"], [f"{sweep}-0000", f"{sweep}-0002"]],
    ]
    tail = f"jobsets.jobset.x-k8s.io --selector=bbo/sweep={sweep} --namespace=team"
    assert capsys.readouterr().out.splitlines() == [
        "3 runs: 1 done, 0 in the cluster already, 2 submitted",
        f"Watch:  kubectl get {tail}",
        f"Cancel: kubectl delete {tail}",
    ]
    assert (place / "out/runs.jsonl").exists()
    submitted = json.loads((place / "out/jobsets.json").read_text())
    assert submitted == {"sweep": sweep, "namespace": "team"}

    assert launch() == 0
    assert calls(place)[2:] == [[get, []]]
    assert "3 runs: 1 done, 2 in the cluster already, 0 submitted" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["Failed", "Completed"])
def test_a_run_that_ended_without_being_done_is_submitted_anew(place, capsys, end):
    """As it failed, or as its folder was removed; the old one makes place, with its pods."""
    sweep = name_of(place)
    assert launch() == 0
    held = {f"{sweep}-{index:04d}": [] for index in range(3)}
    assert json.loads((place / "state").read_text()) == held
    of = lambda kind, status="True": {"type": kind, "status": status}  # noqa: E731
    held[f"{sweep}-0000"] = [of("Suspended"), of("Failed", "False")]
    held[f"{sweep}-0001"] = held[f"{sweep}-0002"] = [of(end)]
    (place / "state").write_text(json.dumps(held))
    finish(place, 2)
    assert launch() == 0
    again = f"{sweep}-0001"
    assert calls(place)[3:] == [
        [["delete", k8s.JOBSETS, again, "--cascade=foreground", "--wait"], []],
        [["create", "--filename=-"], [again]],
    ]
    assert "3 runs: 1 done, 1 in the cluster already, 1 submitted" in capsys.readouterr().out


def test_what_waits_or_runs_in_the_cluster_can_be_asked_for(place, monkeypatch):
    out = place / "out"
    monkeypatch.setenv("KUBECTL_LOG", "")  # to call it would be an error
    assert k8s.queued(out) == {}
    monkeypatch.setenv("KUBECTL_LOG", str(place / "kubectl"))
    assert launch("--namespace=team") == 0
    sweep = name_of(place)
    held = {f"{sweep}-0000": [{"type": "Suspended", "status": "True"}], f"{sweep}-0001": []}
    held[f"{sweep}-0002"] = [{"type": "Failed", "status": "True"}]
    (place / "state").write_text(json.dumps(held))
    assert k8s.queued(out) == {
        0: ("PENDING", "", "on Kubernetes"),
        1: ("RUNNING", "", "on Kubernetes"),
        9999: ("RUNNING", "", "on Kubernetes"),
    }
    assert calls(place)[-1][0][-1] == "--namespace=team"
    (out / "jobsets.json").write_text("{}")
    with pytest.raises(UsageError, match="jobsets.json cannot be read; the same launch.k8s"):
        k8s.queued(out)
    assert launch("--namespace=team") == 0
    write_program(place / "bin/kubectl", "import sys; sys.exit('no route to host')")
    with pytest.raises(RunError, match="kubectl get: no route to host"):
        k8s.queued(out)
    logged = "E1127 14:39:15.123456   1 memcache.go:265] no server\n" * 5
    ends = f"import sys; sys.exit({logged + 'The connection failed'!r})"
    write_program(place / "bin/kubectl", ends)
    with pytest.raises(RunError, match="^kubectl get: The connection failed$"):
        k8s.queued(out)
    monkeypatch.setenv("PATH", str(out))
    with pytest.raises(UsageError, match="kubectl is not found"):
        k8s.queued(out)


def test_what_kubectl_refuses_is_told(place, capsys, monkeypatch):
    monkeypatch.setattr(k8s, "states", lambda *_: {})
    assert launch() == 0
    assert launch() == 1
    assert capsys.readouterr().err == "failed: kubectl create: Error from server (AlreadyExists)\n"


def test_without_kubectl_nothing_is_written(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert launch() == 2
    assert "kubectl is not found" in capsys.readouterr().err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("flags", "out", "message"),
    [
        (["--image="], "out", "--image must be given"),
        (["--queue=", "--volume="], "out", "--queue and --volume must be given"),
        (["--volume=nfs"], "out", "CLAIM:MOUNT"),
        (["--volume=nfs:mnt"], "out", "CLAIM:MOUNT"),
        (["--volume=nfs:/elsewhere"], "out", "it must lie in /elsewhere"),
        ([], "gs://bucket/out", "mount the bucket at the same path on all machines"),
        (["--hosts=0"], "out", "--hosts=0"),
        ([*TPU, "--hosts=2"], "out", "4x4 has 16 chips, but 2 hosts of 4 have 8"),
        (["--chips=4"], "out", "chips is 4; it must be left out, or used with --accelerator"),
        (["--node_selector=pool"], "out", "KEY=VALUE"),
        (["--annotations==x"], "out", "KEY=VALUE"),
    ],
)
def test_mistakes(place, capsys, flags, out, message):
    assert launch(*flags, out=out) == 2
    check_told(capsys, message)
    assert not (place / "out").exists() and not (place / "kubectl").exists()
