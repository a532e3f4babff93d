"""A sweep on Kubernetes: a JobSet for each run, queued by Kueue; TPU slices of GKE, GPUs or CPUs.

  python -m launch.k8s SPEC OUT --image=IMAGE --queue=QUEUE --volume=CLAIM:MOUNT [--dry_run]

  ... --hosts=4 --accelerator=tpu-v5-lite-podslice --topology=4x4 --chips=4    a slice of 16 chips
  ... --hosts=2 --gpus=8 --cpus=64 --memory=500Gi --service_account=NAME       16 GPUs

SPEC is a sweep as launch.sweep describes it; IMAGE has this package installed. CLAIM is a
PersistentVolumeClaim for many writers (Filestore, NFS), mounted at MOUNT in the pods and on this
machine, and OUT lies in it. The cluster needs JobSet 0.6 or newer, and Kueue.

A run that is preempted or evicted saves, and its JobSet starts it again, as often as that happens;
after anything else, such as the loss of a node, --max_restarts times. The same command again
submits what is neither done nor in the cluster, and what has failed there.

Several hosts find each other by jax.distributed.initialize(). On TPUs GKE tells them. Elsewhere
they ask Kubernetes: the image needs jax[k8s], and the pods an account that may look, made once by

  kubectl create serviceaccount NAME
  kubectl create role NAME --verb=get,list --resource=pods,jobs.batch
  kubectl create rolebinding NAME --role=NAME --serviceaccount=NAMESPACE:NAME
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from bbo.files import parse_json, write_json
from bbo.types import RunError, UsageError, require
from launch import sweep
from launch.arguments import require_given, shared_folder
from launch.k8s import jobset
from launch.slurm import squeue

FLAGS = flags.FlagValues()
_PLACE = {"flag_values": FLAGS, "module_name": " k8s"}
for _name, _default, _help in (
    ("image", "", "container image (required)"),
    ("queue", "", "Kueue's LocalQueue (required)"),
    ("volume", "", "CLAIM:MOUNT, where OUT lies (required)"),
    ("namespace", "", "namespace [default: that of kubectl]"),
    ("accelerator", "", "kind of TPU, as GKE labels its nodes: tpu-v5-lite-podslice, ..."),
    ("topology", "", "shape of the TPU slice: 4x4, 2x2x4, ..."),
    ("cpus", "", "CPUs requested on each host"),
    ("memory", "", "memory requested on each host: 64Gi, ..."),
    ("service_account", "", "account of the pods [default: that of the namespace]"),
    ("directory", "", "where in the image to run [default: as the image says]"),
    ("python", "python", "Python in the image"),
):
    flags.DEFINE_string(_name, _default, _help, **_PLACE)
flags.DEFINE_integer("hosts", 1, "hosts of a run, a pod on each", lower_bound=1, **_PLACE)
flags.DEFINE_integer(
    "chips", None, "TPU chips of each host [default with --accelerator: 4]", lower_bound=1, **_PLACE
)
flags.DEFINE_integer("gpus", 0, "GPUs of each host", lower_bound=0, **_PLACE)
flags.DEFINE_integer(
    "max_restarts", 3, "restarts of a run, not counting preemption", lower_bound=0, **_PLACE
)
flags.DEFINE_list("node_selector", [], "labels of the nodes: KEY=VALUE,...", **_PLACE)
flags.DEFINE_list("annotations", [], "annotations of the pods: KEY=VALUE,...", **_PLACE)
flags.DEFINE_boolean(
    "dry_run", False, "print the JobSets, for kubectl create, and do nothing", **_PLACE
)

JOBSETS = "jobsets.jobset.x-k8s.io"
SUBMITTED = "jobsets.json"
"""File of a sweep that tells launch.status where it was submitted."""
LOGGED = re.compile(r"[EWIF]\d{4} ")
"""How lines of kubectl's own log begin; what it has to say stands below them."""
TPU_CHIPS = 4
"""Of a host, in most node pools of GKE."""


def pods_from(values: flags.FlagValues, out: pathlib.Path) -> jobset.Pods:
    """The pods that flags ask for, to write to a folder.

    Raises:
      UsageError: a flag is missing or wrong.
    """
    require_given(values, "image", "queue", "volume")
    claim, _, mount = values.volume.partition(":")
    valid = bool(claim) and mount.startswith("/")
    require(valid, "volume", values.volume, "CLAIM:MOUNT, for instance nfs:/mnt/nfs")
    if not out.is_relative_to(mount):
        raise UsageError(f"OUT is {out}; it must lie in {mount}, where --volume is mounted")
    same = set(jobset.Pods._fields) & set(values)
    given = {name: values[name].value for name in same} | {
        name: pairs(name, values[name].value) for name in ("node_selector", "annotations")
    }
    given["chips"] = values.chips or (TPU_CHIPS if values.accelerator else 0)
    pods = jobset.Pods(claim=claim, mount=mount, **given)
    jobset.check(pods)
    return pods


def pairs(name: str, items: Iterable[str]) -> dict[str, str]:
    """Reads the items of a flag.

    >>> pairs("node_selector", ["pool=a100"])
    {'pool': 'a100'}
    """
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        require(bool(key and equals), name, item, "KEY=VALUE")
        found[key] = value
    return found


def kubectl(namespace: str, *arguments: str, given: str | None = None) -> str:
    """What kubectl prints.

    Raises:
      UsageError: it is not there.
      RunError: it fails.
    """
    place = [f"--namespace={namespace}"] if namespace else []
    try:
        done = subprocess.run(
            ["kubectl", *arguments, *place], input=given, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise UsageError(
            "kubectl is not found; install it, or give what --dry_run prints to one elsewhere"
        ) from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        told = [line for line in lines if line and not LOGGED.match(line)] or lines
        raise RunError(f"kubectl {arguments[0]}: {' '.join(told)}")
    return done.stdout


def states(namespace: str, name: str) -> dict[str, str]:
    """The JobSets of a sweep that are in the cluster: each is PENDING, RUNNING or ENDED."""
    listed = kubectl(
        namespace, "get", JOBSETS, f"--selector={jobset.SWEEP}={name}", "--output=json"
    )
    found = {}
    for item in parse_json(listed)["items"]:
        # Kueue suspends what it queues.
        state = "PENDING" if item.get("spec", {}).get("suspend") else "RUNNING"
        for condition in item.get("status", {}).get("conditions", ()):
            if condition["type"] in ("Completed", "Failed") and condition["status"] == "True":
                state = "ENDED"
        found[item["metadata"]["name"]] = state
    return found


def queued(out: pathlib.Path) -> dict[int, squeue.Job]:
    """The runs of a sweep that wait or run in a cluster; {} at once if none was submitted there.

    Raises:
      UsageError, RunError: from ``kubectl``.
    """
    path = out / SUBMITTED
    if not path.exists():
        return {}
    try:
        place = parse_json(path.read_text(encoding="utf-8"))
        namespace, sweep_name = place["namespace"], place["sweep"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} cannot be read; the same launch.k8s writes it anew") from None
    return {
        int(name.rpartition("-")[2]): squeue.Job(state, "", "on Kubernetes")
        for name, state in states(namespace, sweep_name).items()
        if state != "ENDED"
    }


def main(values: flags.FlagValues, spec: str, out: str) -> None:
    """Submits what is left of a sweep, or shows it."""
    folder = shared_folder(out)
    pods = pods_from(values, folder)
    name = jobset.sweep_name(pods.claim, folder)
    # Asked before anything is written, as it also tells whether there is a cluster.
    present = (_states_if_told if values.dry_run else states)(pods.namespace, name)
    runs = sweep.plan(pathlib.Path(spec), folder)
    left = sweep.unfinished(folder, runs)
    # Absent counts as ended.
    todo = [i for i in left if present.get(jobset.run_name(name, i), "ENDED") == "ENDED"]
    manifests = {
        jobset.run_name(name, index): _text(
            jobset.manifest(
                pods,
                name,
                index=index,
                arguments=sweep.command(folder, index, runs[index], values.python),
                about=sweep.describe(runs[index]),
            )
        )
        for index in todo
    }
    replaced = [old for old in manifests if old in present]
    done, waiting = len(runs) - len(left), len(left) - len(todo)
    counts = f"{len(runs)} runs: {done} done, {waiting} in the cluster already, {len(todo)}"
    if values.dry_run:
        _show(manifests, replaced, counts)
        return
    sweep.write(pathlib.Path(spec), folder, runs)
    write_json(folder / SUBMITTED, {"sweep": name, "namespace": pods.namespace})
    _submit(pods.namespace, manifests, replaced)
    print(f"{counts} submitted")
    tail = f"{JOBSETS} --selector={jobset.SWEEP}={name}"
    tail += f" --namespace={pods.namespace}" if pods.namespace else ""
    print(f"Watch:  kubectl get {tail}\nCancel: kubectl delete {tail}")


def _states_if_told(namespace: str, name: str) -> dict[str, str]:
    """As ``states``; if the cluster cannot be asked, says so and takes it for empty."""
    try:
        return states(namespace, name)
    except (UsageError, RunError) as error:
        print(f"what is in the cluster already cannot be told: {error}", file=sys.stderr)
        return {}


def _text(manifest: dict[str, Any]) -> str:
    """A document of YAML, of which JSON is a part; the line before tells kubectl that it is one."""
    return "---\n" + json.dumps(manifest, indent=2, ensure_ascii=False)


def _show(manifests: dict[str, str], replaced: list[str], counts: str) -> None:
    """Prints JobSets, for kubectl create, and to stderr what else would be done."""
    print(f"{counts} to submit", file=sys.stderr)
    if replaced:
        print(f"ended, and deleted first: {' '.join(replaced)}", file=sys.stderr)
    if manifests:
        print("\n".join(manifests.values()))


def _submit(namespace: str, manifests: dict[str, str], replaced: list[str]) -> None:
    """Creates JobSets in the place of those that have ended."""
    if replaced:
        # Foreground: until their pods are gone too, and no longer write where new ones will.
        kubectl(namespace, "delete", JOBSETS, *replaced, "--cascade=foreground", "--wait")
    if manifests:
        # Not apply: it would patch a JobSet that came between, and take back what Kueue has set.
        kubectl(namespace, "create", "--filename=-", given="\n".join(manifests.values()))
