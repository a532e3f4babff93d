"""The manifest of a run on Kubernetes: a JobSet of one Job, with a pod for each host.

API: jobset.sigs.k8s.io/docs/reference (v1alpha2), and batch/v1 of Kubernetes for the Job in it.
"""

import hashlib
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bbo.types import UsageError, require
from experiments.command_line.program import PREEMPTED

SWEEP = "bbo/sweep"
"""Label of all JobSets of a sweep."""
TERMINATED = 128 + 15
"""Exit status of one that SIGTERM ended before it could save."""
GRACE = 120
"""Seconds from SIGTERM to SIGKILL: a run comes to the end of its step, and saves."""


class Pods(NamedTuple):
    """What the pods of all runs have in common; empty is the default of the cluster or image."""

    image: str
    queue: str
    """Kueue's LocalQueue."""
    claim: str
    """PersistentVolumeClaim that the runs are written to."""
    mount: str
    """Where it is mounted."""
    hosts: int = 1
    accelerator: str = ""
    """Kind of TPU, the label ``cloud.google.com/gke-tpu-accelerator`` of GKE's nodes."""
    topology: str = ""
    """Shape of the TPU slice, for instance ``4x4``."""
    chips: int = 0
    """TPU chips of each host."""
    gpus: int = 0
    """GPUs of each host."""
    cpus: str = ""
    memory: str = ""
    max_restarts: int = 0
    """Restarts for other reasons than preemption."""
    namespace: str = ""
    service_account: str = ""
    directory: str = ""
    """Where in the image to run."""
    node_selector: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


def check(pods: Pods) -> None:
    """Raises UsageError if TPUs are asked for by halves, or in a number that is no slice."""
    accelerator, topology = pods.accelerator, pods.topology
    if not accelerator:
        require(not topology, "topology", topology, "left out, or used with --accelerator")
        require(not pods.chips, "chips", pods.chips, "left out, or used with --accelerator")
        return
    require(not pods.gpus, "gpus", pods.gpus, "0 with --accelerator, which is a kind of TPU")
    shape = re.fullmatch(r"\d+(x\d+){1,2}", topology)
    require(bool(shape), "topology", topology, "the shape of the slice, for instance 4x4 or 2x2x4")
    chips = math.prod(map(int, topology.split("x")))
    if chips != pods.hosts * pods.chips:
        raise UsageError(
            f"topology {topology} has {chips} chips, but {pods.hosts} hosts of {pods.chips} have "
            f"{pods.hosts * pods.chips}; set --hosts and --chips to those of the node pool"
        )


def sweep_name(claim: str, out: pathlib.Path) -> str:
    """A name for the sweep that is written to a folder of a claim, and for no other.

    It begins with a letter and is short: JobSet makes names of pods of it (name, ``-0000-run-0-``,
    index, six more), which must be DNS labels of 63 characters.
    """
    words = re.sub("[^a-z0-9]+", "-", out.name.lower())[:24].strip("-")
    digest = hashlib.sha256(f"{claim}:{out}".encode()).hexdigest()[:8]
    return "-".join(filter(None, ("bbo", words, digest)))


def run_name(sweep: str, index: int) -> str:
    """Name of the JobSet of a run."""
    return f"{sweep}-{index:04d}"


def manifest(
    pods: Pods, sweep: str, *, index: int, arguments: Sequence[str], about: str
) -> dict[str, Any]:
    """The JobSet of a run.

    Args:
      pods: what the pods are.
      sweep: name of the sweep.
      index: index of the run.
      arguments: the process on each host, without ``--distributed``.
      about: the run in a few words.
    """
    annotations = {"bbo/run": about}
    if pods.accelerator and pods.hosts > 1:
        # Else its pods may be spread over two slices that are free in part.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
    metadata = {
        "name": run_name(sweep, index),
        "namespace": pods.namespace,
        "labels": {"kueue.x-k8s.io/queue-name": pods.queue, SWEEP: sweep},
        "annotations": annotations,
    }
    # The job fails for this reason only by a rule of _job: free restarts for preemption. No rule
    # for the rest: JobSet counts those restarts.
    preempted = {
        "name": "preempted",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    job = {"name": "run", "replicas": 1, "template": {"spec": _job(pods, arguments)}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _filled(metadata),
        "spec": {
            "failurePolicy": {"maxRestarts": pods.max_restarts, "rules": [preempted]},
            "replicatedJobs": [job],
        },
    }


def _job(pods: Pods, arguments: Sequence[str]) -> dict[str, Any]:
    """One pod for each host, all or none: if one ends badly, so does the job, with all others."""
    evicted = {"type": "DisruptionTarget", "status": "True"}
    # TERMINATED only with an init process in the image: without, Linux keeps SIGTERM from a
    # process that has not asked for it yet. It is then killed after GRACE, which is no exit status
    # to tell from a lack of memory; but what evicts a pod also sets the condition.
    statuses = {"containerName": "run", "operator": "In", "values": [PREEMPTED, TERMINATED]}
    template = {
        "metadata": _filled({"annotations": pods.annotations}),
        "spec": _pod(pods, arguments),
    }
    return {
        "parallelism": pods.hosts,
        "completions": pods.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [evicted]},
                {"action": "FailJob", "onExitCodes": statuses},
            ]
        },
        "template": _filled(template),
    }


def _pod(pods: Pods, arguments: Sequence[str]) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": pods.accelerator,
        "cloud.google.com/gke-tpu-topology": pods.topology,
        **pods.node_selector,
    }
    volumes = [{"name": "out", "persistentVolumeClaim": {"claimName": pods.claim}}]
    if pods.gpus:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "serviceAccountName": pods.service_account,
        "nodeSelector": _filled(selector),
        "containers": [_container(pods, arguments)],
        "volumes": volumes,
    }
    return _filled(pod)


def _container(pods: Pods, arguments: Sequence[str]) -> dict[str, Any]:
    mounts = [{"name": "out", "mountPath": pods.mount}]
    if pods.gpus:  # NCCL shares memory there; the default is 64 MB.
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    limits = {
        "google.com/tpu": pods.chips if pods.accelerator else None,
        "nvidia.com/gpu": pods.gpus or None,
    }
    resources = {
        "requests": _filled({"cpu": pods.cpus, "memory": pods.memory}),
        "limits": _filled(limits),
    }
    distributed = ["--distributed"] if pods.hosts > 1 else []
    container = {
        "name": "run",
        "image": pods.image,
        "workingDir": pods.directory,
        # Kubernetes makes $ of $$, and a value of $(NAME).
        "command": [text.replace("$", "$$") for text in [*arguments, *distributed]],
        "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}],  # for kubectl logs
        "resources": _filled(resources),
        "volumeMounts": mounts,
    }
    return _filled(container)


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that are not given."""
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}
