"""A sweep on Kubernetes: flags make JobSets, each run is submitted once, mistakes are told."""

import json
import os

import fake_kubectl
import pytest
import yaml
from fake_kubectl import calls, finish
from launching import write_program

from bbo.types import RunError, UsageError
from experiments.command_line.program import run_program
from launch.k8s import jobset
from launch.k8s import program as k8s

SMALL = """\
apiVersion: "jobset.x-k8s.io/v1alpha2"
kind: "JobSet"
metadata:
  name: "{sweep}-0001"
  labels:
    kueue.x-k8s.io/queue-name: "lab"
    bbo/sweep: "{sweep}"
  annotations:
    bbo/run: "noise_on=kernel$,augment=False"
spec:
  failurePolicy:
    maxRestarts: 3
    rules:
      - name: "preempted"
        action: "RestartJobSetAndIgnoreMaxRestarts"
        onJobFailureReasons:
          - "PodFailurePolicy"
  replicatedJobs:
    - name: "run"
      replicas: 1
      template:
        spec:
          parallelism: 1
          completions: 1
          completionMode: "Indexed"
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: "FailJob"
                onPodConditions:
                  - type: "DisruptionTarget"
                    status: "True"
              - action: "FailJob"
                onExitCodes:
                  containerName: "run"
                  operator: "In"
                  values:
                    - 75
                    - 143
          template:
            spec:
              restartPolicy: "Never"
              terminationGracePeriodSeconds: 120
              containers:
                - name: "run"
                  image: "lab/bbo:1"
                  command:
                    - "python"
                    - "-m"
                    - "bbo"
                    - "json"
                    - "--workdir={out}/0001"
                    - "--noise_on=kernel$$"
                    - "--noaugment"
                  env:
                    - name: "PYTHONUNBUFFERED"
                      value: "1"
                  volumeMounts:
                    - name: "out"
                      mountPath: "{mount}"
              volumes:
                - name: "out"
                  persistentVolumeClaim:
                    claimName: "nfs"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a spec, and kubectl on the path."""
    fake_kubectl.install(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(*further, out="out"):
    flags = ("--image=lab/bbo:1", "--queue=lab", f"--volume=nfs:{os.getcwd()}")
    argv = ["k8s", "spec.py", out, *flags, *further]
    return run_program(k8s.main, k8s.FLAGS, argv, positional=("SPEC", "OUT"))


def name_of(place):
    return jobset.sweep_name("nfs", place / "out")


def test_a_dry_run_prints_the_manifests_and_does_nothing(place, capsys, monkeypatch):
    finish(place, 0)
    finish(place, 2)
    before = sorted(place.rglob("*"))
    monkeypatch.setenv("PATH", "")  # no kubectl either
    assert launch("--dry_run") == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == yaml.safe_load(
        SMALL.format(sweep=name_of(place), out=place / "out", mount=place)
    )
    assert err == (
        "what is in the cluster already cannot be told: kubectl is not found; install it, or give "
        "what --dry_run prints to one elsewhere\n"
        "3 runs: 2 done, 0 in the cluster already, 1 to submit\n"
    )
    assert sorted(place.rglob("*")) == before


def test_a_dry_run_leaves_out_what_is_in_the_cluster(place, capsys):
    sweep = name_of(place)
    ended = [{"type": "Failed", "status": "True"}]
    (place / "state").write_text(json.dumps({f"{sweep}-0000": [], f"{sweep}-0001": ended}))
    finish(place, 2)
    assert launch("--dry_run") == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == yaml.safe_load(
        SMALL.format(sweep=sweep, out=place / "out", mount=place)
    )
    assert err == (
        "3 runs: 1 done, 1 in the cluster already, 1 to submit\n"
        f"ended, and deleted first: {sweep}-0001\n"
    )
    finish(place, 1)
    assert launch("--dry_run") == 0
    said = "3 runs: 2 done, 1 in the cluster already, 0 to submit\n"
    assert capsys.readouterr() == ("", said)
    assert {arguments[0] for arguments, _ in calls(place)} == {"get"}
    assert not (place / "out/runs.jsonl").exists() and not (place / "out/jobsets.json").exists()


ALL = (
    *("--hosts=2", "--gpus=8", "--cpus=64", "--memory=500Gi", "--service_account=sa"),
    *("--namespace=team", "--directory=/app", "--python=/opt/bin/python", "--max_restarts=0"),
    *("--node_selector=pool=a100,spot=true", "--annotations=gke-gcsfuse/volumes=true"),
)
ALL_PODS = {
    **dict(hosts=2, gpus=8, cpus="64", memory="500Gi", service_account="sa", namespace="team"),
    **dict(directory="/app", max_restarts=0, annotations={"gke-gcsfuse/volumes": "true"}),
    **dict(node_selector={"pool": "a100", "spot": "true"}),
}
TPU = ("--hosts=4", "--accelerator=tpu-v5-lite-podslice", "--topology=4x4")
TPU_PODS = dict(
    hosts=4, accelerator="tpu-v5-lite-podslice", topology="4x4", chips=4, max_restarts=3
)


@pytest.mark.parametrize(
    ("flags", "pods", "python"),
    [(TPU, TPU_PODS, "python"), (ALL, ALL_PODS, "/opt/bin/python")],
)
def test_flags_say_what_the_pods_are(place, capsys, flags, pods, python):
    """Of manifests made so, the tests of jobset show that they are right."""
    assert launch("--dry_run", *flags) == 0
    first, *_ = yaml.safe_load_all(capsys.readouterr().out)
    assert first == jobset.manifest(
        jobset.Pods(image="lab/bbo:1", queue="lab", claim="nfs", mount=str(place), **pods),
        name_of(place),
        index=0,
        arguments=[
            python,
            "-m",
            "bbo",
            "json",
            f"--workdir={place}/out/0000",
            "--noise=none",
            "--seed=1",
        ],
        about="noise=none,seed=1",
    )


def test_what_is_submitted_is_what_a_dry_run_prints(place, capsys):
    assert launch("--dry_run", *ALL) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert launch(*ALL) == 0
    [*_, (_, given)] = map(json.loads, (place / "kubectl").read_text().splitlines())
    assert given == printed


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
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
    assert not (place / "out").exists() and not (place / "kubectl").exists()


@pytest.mark.parametrize(
    "text", ["", "true", "1", "null", "- a: b #c", 'a"b\\c', "é\u2028\t\n{[*&!|>%@`", "1e3", "$(A)"]
)
def test_yaml_gives_back_every_text(text):
    tree = {"a": [text, [text, {"b": text}], {"c": {"d": [1, True, None, text]}}], "e": text}
    assert list(yaml.safe_load_all("\n".join([k8s._text(tree)] * 2))) == [tree, tree]
