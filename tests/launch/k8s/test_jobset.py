"""The JobSet of a run: valid for the API, what its kind of host needs, named as nothing else."""

import pathlib

import pytest
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from bbo.types import UsageError
from launch.k8s import jobset

CPU = jobset.Pods(image="lab/bbo:1", queue="lab", claim="nfs", mount="/mnt/nfs")
TPU = CPU._replace(hosts=4, accelerator="tpu-v5-lite-podslice", topology="4x4", chips=4)
GPU = CPU._replace(
    **dict(hosts=2, gpus=8, cpus="64", memory="500Gi", service_account="sa", namespace="team"),
    **dict(directory="/app", max_restarts=7, annotations={"gke-gcsfuse/volumes": "true"}),
    **dict(node_selector={"pool": "a100", "spot": "true"}),
)


def manifest(pods, index=0, arguments=("python", "-m", "experiments.run"), about="seed=1"):
    found = jobset.manifest(pods, "bbo-x-1", index=index, arguments=arguments, about=about)
    check_schema(found)
    return found


def check_schema(manifest):
    """Raises if a field is not one of the API, or of another type: it would not come back."""
    assert JobsetV1alpha2JobSet.from_dict(manifest).to_dict() == manifest


def job(manifest):
    [found] = manifest["spec"]["replicatedJobs"]
    return found["template"]["spec"]


def pod(manifest):
    return job(manifest)["template"]["spec"]


def container(manifest):
    [found] = pod(manifest)["containers"]
    return found


def test_a_slice_of_tpus():
    found = manifest(TPU)
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert found["metadata"] == {
        "name": "bbo-x-1-0000",
        "labels": {"kueue.x-k8s.io/queue-name": "lab", "bbo/sweep": "bbo-x-1"},
        "annotations": {"bbo/run": "seed=1", key: "cloud.google.com/gke-nodepool"},
    }
    assert (job(found)["parallelism"], job(found)["completions"]) == (4, 4)
    assert pod(found)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container(found)["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container(found)["command"] == ["python", "-m", "experiments.run", "--distributed"]


def test_one_host_of_tpus():
    found = manifest(TPU._replace(hosts=1, topology="2x4", chips=8))
    assert list(found["metadata"]["annotations"]) == ["bbo/run"]
    assert "--distributed" not in container(found)["command"]


def test_gpus_and_all_that_may_be_given():
    found = manifest(GPU)
    assert found["metadata"]["namespace"] == "team"
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert job(found)["template"]["metadata"] == {"annotations": {"gke-gcsfuse/volumes": "true"}}
    assert pod(found)["serviceAccountName"] == "sa"
    assert pod(found)["nodeSelector"] == {"pool": "a100", "spot": "true"}
    assert pod(found)["volumes"][1] == {"name": "shm", "emptyDir": {"medium": "Memory"}}
    inside = container(found)
    assert inside["workingDir"] == "/app"
    assert inside["command"][-1] == "--distributed"
    assert inside["volumeMounts"][1] == {"name": "shm", "mountPath": "/dev/shm"}
    assert inside["resources"] == {
        "requests": {"cpu": "64", "memory": "500Gi"},
        "limits": {"nvidia.com/gpu": 8},
    }


@pytest.mark.parametrize("pods", [CPU, TPU, GPU], ids=["cpu", "tpu", "gpu"])
def test_preemption_restarts_the_whole_run_and_costs_nothing(pods):
    found = manifest(pods)
    [rule] = found["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert {rule["action"] for rule in job(found)["podFailurePolicy"]["rules"]} == {"FailJob"}
    condition, status = job(found)["podFailurePolicy"]["rules"]
    assert condition["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert status["onExitCodes"]["containerName"] == container(found)["name"]
    assert status["onExitCodes"]["values"] == [75, 143]
    # What Kubernetes asks of a job with a podFailurePolicy, and a gang of its parts.
    assert (job(found)["backoffLimit"], pod(found)["restartPolicy"]) == (0, "Never")
    assert pod(found)["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize("pods", [CPU, TPU, GPU], ids=["cpu", "tpu", "gpu"])
def test_runs_differ_in_name_and_command_only(pods):
    first, second = manifest(pods, 0), manifest(pods, 12, ["other"], "seed=2")
    assert second["metadata"]["name"] == "bbo-x-1-0012"
    for found in (first, second):
        del found["metadata"]["name"], found["metadata"]["annotations"]["bbo/run"]
        del container(found)["command"]
    assert first == second


def test_a_dollar_stays_one():
    found = manifest(CPU, arguments=["--on=kernel$", "$(HOME)", "$$"])
    # Kubernetes makes $ of $$, from left to right.
    assert container(found)["command"] == ["--on=kernel$$", "$$(HOME)", "$$$$"]


# (path to a field of the manifest, what it is replaced by; None removes it)
WRONG = [
    (("spec", "failurePolicy", "maxRestart"), 3),
    (("spec", "failurePolicy", "maxRestarts"), "three"),
    (("spec", "failurePolicy", "rules", 0, "onJobFailureReason"), ["PodFailurePolicy"]),
    (("spec", "failurePolicy", "rules", 0, "onJobFailureReasons"), "PodFailurePolicy"),
    (("spec", "failurePolicy", "rules", 0, "name"), None),
    (("spec", "replicatedJobs", 0, "replicas"), "one"),
    (("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"), 0),
    (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
    (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "nodeSelector"), "a=b"),
    (("metadata", "labels", "bbo/sweep"), 3),
    (("metadata", "label"), {}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[str(path[-1]) for path, _ in WRONG])
def test_the_schema_refuses(path, value):
    *parents, last = path
    found = inner = manifest(TPU)
    for key in parents:
        inner = inner[key]
    inner.pop(last, None) if value is None else inner.update({last: value})
    with pytest.raises((ValueError, AssertionError)):
        check_schema(found)


@pytest.mark.parametrize(
    "out", ["out", "Ünsinn/My  Sweep_of.April", "a" * 200, "-", "x" * 23 + "-y"]
)
def test_names_are_short_dns_labels(out):
    name = jobset.run_name(jobset.sweep_name("nfs", pathlib.Path("/mnt/nfs", out)), 99999)
    longest = f"{name}-run-0-4095-abcde"  # as JobSet names pods
    assert len(longest) <= 63
    assert all(part and part.isalnum() for part in name.split("-"))
    assert name.isascii() and name == name.lower() and name[0].isalpha()


def test_sweeps_have_names_of_their_own():
    out = pathlib.Path("/mnt/lab/cifar")
    names = {
        jobset.sweep_name("nfs", out),
        jobset.sweep_name("other", out),
        jobset.sweep_name("nfs", out.parent / "Cifar"),
    }
    assert len(names) == 3
    assert jobset.sweep_name("nfs", out) == "bbo-cifar-302a0616"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accelerator": ""}, "topology is '4x4'; it must be left out, or used with --accelerator"),
        (
            {"accelerator": "", "topology": ""},
            "chips is 4; it must be left out, or used with --accelerator",
        ),
        ({"topology": ""}, "the shape of the slice, for instance 4x4"),
        ({"topology": "4"}, "the shape of the slice"),
        ({"topology": "4x4x"}, "the shape of the slice"),
        ({"hosts": 2}, "4x4 has 16 chips, but 2 hosts of 4 have 8; set --hosts and --chips"),
        ({"chips": 1}, "4x4 has 16 chips, but 4 hosts of 1 have 4"),
        ({"gpus": 1}, "0 with --accelerator"),
    ],
)
def test_tpus_that_do_not_exist(change, message):
    jobset.check(TPU)
    jobset.check(TPU._replace(topology="2x2x4"))
    with pytest.raises(UsageError, match=message):
        jobset.check(TPU._replace(**change))
