"""What the launcher for Kubernetes prints and gives to kubectl: one JobSet for each run."""

import json

import fake_kubectl
import pytest
import yaml
from fake_kubectl import calls, finish, launch, name_of

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
    return fake_kubectl.install(tmp_path, monkeypatch)


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


@pytest.mark.parametrize(
    "text", ["", "true", "1", "null", "- a: b #c", 'a"b\\c', "é\u2028\t\n{[*&!|>%@`", "1e3", "$(A)"]
)
def test_yaml_gives_back_every_text(text):
    tree = {"a": [text, [text, {"b": text}], {"c": {"d": [1, True, None, text]}}], "e": text}
    assert list(yaml.safe_load_all("\n".join([k8s._text(tree)] * 2))) == [tree, tree]
