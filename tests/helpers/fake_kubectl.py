"""A stand-in for kubectl, which notes how it is called and keeps its JobSets in a file."""

import json
import os

from launching import write_program

from experiments.command_line.program import run_program
from launch.k8s import jobset
from launch.k8s import program as k8s

SPEC = """
SCRIPT = "json"
def runs():
    yield {"noise": "none", "seed": 1}
    yield {"noise_on": "kernel$", "augment": False}
    yield {"seed": 2}
"""

# The JobSets as name: conditions.
KUBECTL = """
import json, os, pathlib, sys, yaml
state = pathlib.Path(os.environ["KUBECTL_STATE"])
held = json.loads(state.read_text()) if state.exists() else {}
given = [] if sys.argv[1] != "create" else list(yaml.safe_load_all(sys.stdin))
with open(os.environ["KUBECTL_LOG"], "a") as log:
    log.write(json.dumps([sys.argv[1:], given]) + "\\n")
if sys.argv[1] == "get":
    items = [
        {
            "metadata": {"name": name},
            "spec": {"suspend": any(one["type"] == "Suspended" for one in conditions)},
            "status": {"conditions": conditions},
        }
        for name, conditions in held.items()
    ]
    print(json.dumps({"items": [*items, {"metadata": {"name": "new-9999"}}]}))
elif sys.argv[1] == "delete":
    for name in [item for item in sys.argv[3:] if not item.startswith("--")]:
        del held[name]
else:
    for item in given:
        if item["metadata"]["name"] in held:
            sys.exit("Error from server (AlreadyExists)")
        held[item["metadata"]["name"]] = []
state.write_text(json.dumps(held))
"""


def install(place, monkeypatch):
    """Puts it on the path, and goes to the folder, in which is a spec of three runs."""
    (place / "bin").mkdir()
    write_program(place / "bin/kubectl", KUBECTL)
    (place / "spec.py").write_text(SPEC)
    monkeypatch.setenv("KUBECTL_LOG", str(place / "kubectl"))
    monkeypatch.setenv("KUBECTL_STATE", str(place / "state"))
    monkeypatch.setenv("PATH", str(place / "bin"), prepend=":")
    monkeypatch.chdir(place)
    return place


def finish(place, index):
    (place / f"out/{index:04d}").mkdir(parents=True, exist_ok=True)
    (place / f"out/{index:04d}/summary.json").write_text("{}")


def calls(place):
    """How kubectl was called: its arguments, and names of the JobSets that it was given."""
    return [
        [arguments, [item["metadata"]["name"] for item in given]]
        for arguments, given in map(json.loads, (place / "kubectl").read_text().splitlines())
    ]


def launch(*further, out="out"):
    """Starts the launcher in the folder, which is the volume's; gives its exit status."""
    flags = ("--image=lab/bbo:1", "--queue=lab", f"--volume=nfs:{os.getcwd()}")
    argv = ["k8s", "spec.py", out, *flags, *further]
    return run_program(k8s.main, k8s.FLAGS, argv, positional=("SPEC", "OUT"))


def name_of(place):
    """What the sweep is called."""
    return jobset.sweep_name("nfs", place / "out")
