"""A sweep keeps its meaning once it is frozen, and is launched without jax."""

import collections
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from bbo.types import UsageError
from experiments.command_line.program import run_program
from experiments.presets import PRESETS
from launch import sweep

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = {
    "digits": 12,
    "digits_tuning": 32,
    "digits_study": 25,
    "digits_published": 25,
    "digits_seeds": 30,
    "digits_baselines": 35,
    "cifar10_tuning": 48,
    "cifar10_study": 24,
    "recipe_search": 56,
    "recipe_study": 84,
    "recipe_resnet": 24,
    "published": 54,
    "clean": 54,
}
"""How many runs the sweeps of the repository have."""


def test_frozen_runs_are_read_as_they_were_listed(spec, out):
    path = spec([{"rate": 0.1, "noise": "dropout"}, {"augment": False, "sparsities": (0, 0.5)}])
    frozen = sweep.freeze(path, out)
    assert frozen == sweep.read_runs(out)
    assert frozen[1] == sweep.Run("held_run", {"augment": False, "sparsities": [0, 0.5]})
    assert [sweep.describe(run) for run in frozen] == [
        "rate=0.1,noise=dropout",
        "augment=False,sparsities=0,0.5",
    ]
    assert (out / "runs.jsonl").read_text() == (
        '{"script": "held_run", "flags": {"rate": 0.1, "noise": "dropout"}}\n'
        '{"script": "held_run", "flags": {"augment": false, "sparsities": [0, 0.5]}}\n'
    )
    assert sweep.freeze(path, out) == frozen


def test_plan_writes_nothing(spec, out):
    assert sweep.plan(spec([{}]), out) == [sweep.Run("held_run", {})]
    assert not out.exists()


def test_runs_may_be_appended(spec, out):
    sweep.freeze(spec([{"seed": 0}]), out)
    # The order of flags has no meaning.
    sweep.freeze(spec([{"seed": 0}, {"seed": 1, "rate": 0.1}]), out)
    sweep.freeze(spec([{"seed": 0}, {"rate": 0.1, "seed": 1}, {"seed": 2}]), out)
    assert len(sweep.read_runs(out)) == 3


def test_where_data_lie_may_change(spec, out):
    runs = [{"seed": 0, "data_dir": "/old"}, {"seed": 1, "data_dir": "/old"}]
    sweep.freeze(spec(runs), out)
    moved = [run | {"data_dir": "/new", "cache_dir": "/fast"} for run in runs]
    assert sweep.freeze(spec(moved), out) == sweep.read_runs(out)
    assert [run.flags for run in sweep.read_runs(out)] == moved
    with pytest.raises(UsageError, match="run 1 of .* is the same as run 0; list each once"):
        sweep.plan(spec([runs[0], moved[0]]), out)


@pytest.mark.parametrize(
    "runs, message",
    [
        ([{"seed": 0}, {"seed": 7}], "run 1 of {out} is seed=1 there and now seed=7 in {spec}"),
        ([{"seed": 0}], "run 1 of {out} is seed=1 there and gone now in {spec}"),
        ([{"seed": 1}, {"seed": 0}], "run 0 of {out} is seed=0 there and now seed=1 in {spec}"),
        ([{"seed": False}, {"seed": 1}], "run 0 of {out} is seed=0 there and now seed=False"),
    ],
)
def test_runs_may_not_be_changed(spec, out, runs, message):
    sweep.freeze(spec([{"seed": 0}, {"seed": 1}]), out)
    before = (out / "runs.jsonl").read_bytes()
    path = spec(runs)
    with pytest.raises(UsageError) as caught:
        sweep.freeze(path, out)
    assert message.format(out=out, spec=path) in str(caught.value)
    assert str(caught.value).endswith("restore it, or name another folder")
    assert (out / "runs.jsonl").read_bytes() == before


def test_another_script_is_another_run(spec, out):
    sweep.freeze(spec([{"seed": 0}]), out)
    with pytest.raises(UsageError, match="run 0 of"):
        sweep.freeze(spec([{"seed": 0}], script="experiments.run"), out)


@pytest.mark.parametrize(
    "text", ["{", "[1]", "3", "[" * 100_000, '{"script": "x", "flags": null}', "\udcff"]
)
def test_runs_that_cannot_be_read(spec, out, text):
    out.mkdir()
    (out / "runs.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="runs.jsonl cannot be read as runs of a sweep"):
        sweep.read_runs(out)
    with pytest.raises(UsageError, match="runs.jsonl cannot be read as runs of a sweep"):
        sweep.freeze(spec([{}]), out)
    assert (out / "runs.jsonl").read_bytes() == text.encode("utf-8", "surrogateescape")


def test_flags_as_arguments():
    values = {
        "augment": True,
        "conv_bias": False,
        "rate": 1e-05,
        "seed": 3,
        "sparsities": [0, 0.5],
        "granularity": ["filter", "weight"],
        "noise_on": "block.*/kernel$",
        "prune_on": "",
    }
    run = sweep.Run("experiments.run", values)
    assert sweep.flag_arguments(run) == [
        "--augment",
        "--noconv_bias",
        "--rate=1e-05",
        "--seed=3",
        "--sparsities=0,0.5",
        "--granularity=filter,weight",
        "--noise_on=block.*/kernel$",
        "--prune_on=",
    ]
    folder = pathlib.Path("out")
    assert sweep.command(folder, 12, run, "py")[:6] == [
        *("py", "-m", "bbo", "experiments.run"),
        *("--workdir=out/0012", "--augment"),
    ]
    assert sweep.describe(sweep.Run("experiments.run", {})) == "(no flags)"


def test_labels_tell_runs_apart():
    def labels(*flags):
        return sweep.labels([sweep.Run("held_run", values) for values in flags])

    same = {"preset": "clean", "data_dir": "/data"}
    assert labels(same | {"seed": 0}, same | {"seed": 1}) == ["seed=0", "seed=1"]
    assert labels(same | {"seed": 0}, same) == ["seed=0", "(no flags)"]
    assert labels({"x": [1, 2]}, {"x": [1]}) == ["x=1,2", "x=1"]
    assert labels(same) == ["preset=clean,data_dir=/data"]


def test_the_commands_are_printed(spec, out, capsys):
    path = spec([{"seed": 0}, {"noise_on": "a b"}])
    argv = ["sweep", str(path), str(out)]
    assert run_program(sweep.main, sweep.FLAGS, argv, positional=("SPEC", "OUT")) == 0
    start = f"{shlex.quote(sys.executable)} -m bbo held_run --workdir={out}"
    assert capsys.readouterr().out.splitlines() == [
        f"{start}/0000 --seed=0",
        f"{start}/0001 '--noise_on=a b'",
    ]


def test_unfinished(spec, out):
    runs = sweep.freeze(spec([{"seed": seed} for seed in range(3)]), out)
    assert sweep.unfinished(out, runs) == [0, 1, 2]
    (out / "0001").mkdir()
    assert sweep.unfinished(out, runs) == [0, 1, 2]
    (out / "0001/summary.json").touch()
    assert sweep.unfinished(out, runs) == [0, 2]


def launch(*argv, **options):
    """A process that becomes a run."""
    arguments = [sys.executable, "-m", "launch.sweep", *map(str, argv)]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


def test_becoming_a_run_leaves_no_process_between(spec, out, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/helpers"))
    sweep.freeze(spec([{"seed": 0}, {"seed": 1}]), out)
    process = launch(out, 1, "--steps=5", "--hold=2")
    limit = time.monotonic() + 60
    while not (out / "0001/holds").exists():
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75 and "step 2/5" in told
    assert json.loads((out / "0001/starts").read_text())["pid"] == process.pid
    assert (out / "0001/saved").read_text() == "2" and not (out / "0000").exists()


@pytest.mark.parametrize(
    "index, message",
    [
        ("2", "{out} has no run 2: it has 2, counted from 0"),
        ("-1", "Unknown command line flag '1'"),
        ("x", "there is no spec {out}; name a Python file"),
    ],
)
def test_becoming_no_run(spec, out, index, message):
    sweep.freeze(spec([{"seed": 0}, {"seed": 1}]), out)
    process = launch(out, index)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2 and told.startswith("error: ") and told.count("\n") == 1
    assert message.format(out=out) in told


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sweeps(name, out, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    runs = sweep.plan(ROOT / f"experiments/sweeps/{name}.py", out)
    assert len(runs) == SHIPPED[name]
    is_embedded = name.startswith("digits")
    assert {run.flags.get("data_dir") for run in runs} == {None if is_embedded else "/data"}
    seeds_of = collections.defaultdict(list)
    for run in runs:
        problem = tuple(run.flags.get(name) for name in ("dataset", "model", "width"))
        seeds_of[problem].append(run.flags["seed"])
    for seeds in seeds_of.values():
        assert seeds == sorted(seeds)
        # What was searched on some seeds is compared on others.
        assert min(seeds) == {"tuning": 100, "search": 100, "seeds": 10}.get(
            name.rpartition("_")[2], 0
        )


@pytest.mark.parametrize("name", ["published", "clean"])
def test_the_study_of_the_paper_is_of_every_network_dataset_and_method(name, out):
    seen = collections.Counter()
    for run in sweep.plan(ROOT / f"experiments/sweeps/{name}.py", out):
        given = dict(run.flags)
        config = PRESETS[given.pop("preset")]
        network, dataset, seed = config.model.model, config.data.dataset, given.pop("seed")
        assert config.pruning.meaning == name and given.pop("data_dir")
        seen[network, dataset, seed, given.pop("noise"), tuple(sorted(given.items()))] += 1
    methods = [
        ("none", ()),
        ("dropout", (("rate", 0.3),)),
        ("batch_bridgeout", (("q", 1.5), ("rate", 0.3), ("target_fraction", 0.75))),
    ]
    assert seen == collections.Counter(
        (network, dataset, seed, *method)
        for network in ("vgg16", "thin_resnet34", "wrn28_10")
        for dataset in ("cifar10", "cifar100")
        for seed in range(3)
        for method in methods
    )


def test_every_sweep_is_tested():
    assert {path.stem for path in (ROOT / "experiments/sweeps").glob("*.py")} == set(SHIPPED)


BARE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        allowed = {"absl", "bbo", "experiments", "launch", *sys.stdlib_module_names}
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
for heavy in ("jax", "numpy", "pandas", "tqdm"):
    assert heavy not in sys.modules
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def bare(*argv):
    """Runs a module where only the standard library and absl are installed."""
    arguments = [sys.executable, "-c", BARE, *map(str, argv)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["launch.sweep", "launch.local", "launch.status"])
def test_help_needs_no_jax(module):
    done = bare(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m {module} " in done.stdout


def test_launching_needs_no_jax(out):
    spec = "experiments/sweeps/digits.py"
    assert "jax is not installed" in bare("jax").stderr
    frozen = bare("launch.sweep", spec, out)
    assert (frozen.returncode, frozen.stderr, frozen.stdout.count("\n")) == (0, "", 12)
    planned = bare("launch.local", spec, out, "--dry_run")
    assert (planned.returncode, planned.stdout) == (0, frozen.stdout)
    shown = bare("launch.status", out)
    assert shown.returncode == 0 and shown.stdout.endswith("12 runs: 12 NEW\n")
