"""Every wrong use of ``python -m experiments.run`` ends in one clear line, and writes nothing."""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from mistakes import check_told

from bbo import files
from bbo.settings.config import override, to_json
from experiments import run
from experiments.command_line.program import run_program
from experiments.presets import digits

NOBODY = 65534
CIFAR = "--dataset=cifar10"
PREPARE = "python -m experiments.prepare --dataset=cifar10"

WRONG = [
    # (arguments of which the last is the wrong one, what the message says is allowed or to do)
    ("--sparsty=0.5", "Did you mean: sparsities"),
    ("digits", "settings are --name=value"),
    ("--sparsities 0 0.5", "settings are --name=value"),
    ("--rate", "Missing value"),
    ("--noaugment=3", "does not take an argument"),
    ("--conv_bias=maybe", "true or false"),
    ("--preset=paper", "<digits|recipe|clean|published|published/vgg16_cifar10|"),
    ("--dataset=imagenet", "<digits|cifar10|cifar100|svhn_cropped|mnist|fashion_mnist>"),
    ("--model=alexnet", "small_cnn, small_vgg, vgg11"),
    ("--model=vgg12", "vgg13, vgg16, vgg19"),
    ("--model=thin_resnet50", "thin_resnet18, thin_resnet20, thin_resnet34"),
    ("--model=wrn27_10", "DEPTH 10, 16, 22, 28, ...: 6n + 4"),
    ("--model=wrn28_0", "WIDTH 1 to 99"),
    ("--model=wrn16_1000000", "WIDTH 1 to 99"),
    ("--model=vgg16", "take small_cnn or a resnet"),
    ("--width=0", "in (0, 16]"),
    ("--norm_momentum=1", "in [0, 1)"),
    ("--final_norm_momentum=-0.1", "in [0, 1)"),
    ("--noise=batch_bridgout", "batch_bridgeout|scale_free_bridgeout|bridgeout"),
    ("--rate=0", "no noise is --noise=none"),
    ("--rate=1", "in (0, 1)"),
    ("--rate=high", "must be a number"),
    ("--q=0", "in (0, 8]"),
    ("--q=-1", "in (0, 8]"),
    ("--q=nan", "in (0, 8]"),
    ("--target_fraction=0", "in (0, 1]"),
    ("--target_fraction=1.5", "in (0, 1]"),
    ("--target_unit=channel", "<weight|kernel|filter>"),
    ("--activation_target_fraction=0", "in (0, 1]"),
    ("--shakeout_c=inf", ">= 0"),
    ("--noise_on=(", "unterminated subpattern"),
    ("--noise_on=stem", "there are 14 parameters: conv1/kernel"),
    ("--noise=none --noise_on=stem", "there are 14 parameters: conv1/kernel"),
    ("--target_unit=kernel --noise_on=bias$", "select kernels, or set target_fraction to 1"),
    ("--learning_rate=0", "> 0"),
    ("--learning_rate=inf", "> 0"),
    ("--momentum=1", "in [0, 1)"),
    ("--weight_decay=-1", ">= 0"),
    ("--schedule=linear", "<step|cosine|constant>"),
    ("--milestones=0.5,0.3", "increasing numbers in (0, 1)"),
    ("--milestones=60,120", "increasing numbers in (0, 1)"),
    ("--decay_factor=0", "in (0, 1]"),
    ("--warmup_fraction=1", "in [0, 1)"),
    ("--label_smoothing=1", "in [0, 1)"),
    ("--epochs=0", ">= 1"),
    ("--epochs=-1", ">= 1"),
    ("--epochs=1.5", "must be a whole number"),
    ("--batch_size=1", ">= 2"),
    ("--batch_size=5000", "there are 1293 training images; set batch_size to 1293 or less"),
    ("--batch_size=12", "set batch_size to a multiple of 8"),
    ("--seed=-1", "in [0, 2**32)"),
    ("--dtype=float16", "<float32|bfloat16>"),
    ("--parallel=threads", "<jit|pmap>"),
    ("--select=best", "<last|best_validation|best_test>"),
    ("--checkpoint_every=0", ">= 1"),
    ("--select=best_validation --validation_fraction=0", "hold images out, or set select to"),
    ("--validation_fraction=1", "in [0, 1)"),
    ("--validation_fraction=0.0001", "less than one of 1437 images; make it larger"),
    ("--validation_fraction=0.999", "no training image of class"),
    ("--sparsities=1.2", "increasing numbers in [0, 1)"),
    ("--sparsities=-0.1", "increasing numbers in [0, 1)"),
    ("--sparsities=nan", "increasing numbers in [0, 1)"),
    ("--sparsities=0.5,0.3", "increasing numbers in [0, 1)"),
    ("--sparsities=0.5,0.5", "increasing numbers in [0, 1)"),
    ("--sparsities=few,many", "numbers separated by commas"),
    ("--sparsities=", "increasing numbers in [0, 1)"),
    ("--granularity=channel", "one or more of weight, kernel, filter"),
    ("--granularity=filter,filter", "each once"),
    ("--criterion=l3", "<l2|l1|norm_scale|taylor|geometric_median|random|index>"),
    ("--granularity=weight --criterion=norm_scale", "set granularity to 'filter'"),
    ("--criterion=norm_scale --granularity=filter --prune_on=head", "are classes: pruning them"),
    ("--model=wrn10_1 --granularity=filter --criterion=norm_scale --prune_on=conv2", "or another"),
    (
        "--model=wrn10_1 --prune_on=conv2 --granularity=filter --scope=group",
        "or set scope to local",
    ),
    ("--scope=everywhere", "<local|layer|global|group>"),
    ("--meaning=dirty", "<published|clean>"),
    ("--prune_on=[", "unterminated character set"),
    ("--prune_on=stem", "there are 14 parameters: conv1/kernel"),
    ("--meaning=clean --prune_norm_scales", "belongs to meaning 'published'"),
    ("--recovery=finetuning", "one or more of none, batch_norm"),
    ("--recovery_images=0", ">= 1"),
    (f"{CIFAR} --data_dir=EMPTY", f"{PREPARE} --data_dir=EMPTY"),
    (f"{CIFAR} --data_dir=FILE", "Not a directory"),
    (f"{CIFAR} --data_dir=BROKEN", "does not describe a prepared dataset"),
    ("--workdir=", "name a folder"),
    ("--workdir=gs://bucket/run", "mount the bucket (gcsfuse), name its folder"),
    ("--workdir=FILE", "name a folder"),
    ("--workdir=FILE/run", "FILE is a file; name another"),
    ("--workdir=FOREIGN", "holds files but no run (no config.json); name another folder"),
    ("--workdir=DAMAGED", "config.json cannot be read as the configuration of a run"),
    ("--workdir=OTHER", "(q is 2.0 there, 1.0 here); name another workdir"),
    ("--workdir=" + 300 * "x", "File name too long"),
]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders to go wrong with; the current one is empty."""
    texts = {
        "FOREIGN/thesis.tex": "",
        "DAMAGED/config.json": '{"config": {"data": 3}}',
        "BROKEN/cifar10/3.0.2/dataset_info.json": "{}",
        "FILE": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("EMPTY", "OTHER", "here"):
        (tmp_path / name).mkdir()
    other = override(digits, q=2.0)
    files.write_json(tmp_path / "OTHER" / "config.json", {"config": to_json(other)})
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def check_refused(capsys, folder, arguments, *parts):
    before = sorted(folder.rglob("*"))
    status = run_program(run.main, run.FLAGS, ["run", *arguments])
    assert status == 2
    check_told(capsys, arguments[-1].lstrip("-").split("=")[0], *parts)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("arguments", "remedy"), WRONG, ids=[case[0][:60] for case in WRONG])
def test_a_wrong_use_ends_in_one_line(arguments, remedy, places, capsys):
    for name in ("EMPTY", "FILE", "BROKEN", "FOREIGN", "DAMAGED", "OTHER"):
        arguments = arguments.replace(name, str(places / name))
        remedy = remedy.replace(name, str(places / name))
    if "--workdir" not in arguments:
        arguments = f"--workdir={places / 'run'} {arguments}"
    check_refused(capsys, places, arguments.split(), remedy)


@pytest.mark.parametrize("arguments", ["--workdir=CLOSED/run", f"{CIFAR} --data_dir=CLOSED"])
def test_a_closed_folder_ends_in_one_line(arguments, places, capsys):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # others cannot enter pytest's own folders
        pathlib.Path(folder).chmod(0o755)
        closed = pathlib.Path(folder) / "CLOSED"
        closed.mkdir(mode=0)
        arguments = arguments.replace("CLOSED", str(closed)).split()
        workdir = [] if "--workdir" in arguments[0] else [f"--workdir={folder}/run"]
        try:
            if user == 0:  # root may enter everywhere
                os.seteuid(NOBODY)
            status = run_program(run.main, run.FLAGS, ["run", *workdir, *arguments])
        finally:
            os.seteuid(user)
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n"), err[:7]) == (2, "", 1, "error: ")
        assert ("Permission denied" in err or "no permission" in err) and str(closed) in err


def program(folder, arguments):
    """Runs the program in a process of its own; its status, output and if it loaded jax."""
    code = (
        "import sys; from experiments import run;"
        "from experiments.command_line.program import run_program;"
        "status = run_program(run.main, run.FLAGS, sys.argv);"
        "print('jax' in sys.modules); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10
    )


def test_missing_data_are_told_before_anything_heavy_is_loaded(tmp_path):
    done = program(tmp_path, ["--preset=published", f"--data_dir={tmp_path}"])
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("error: no prepared cifar10") and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_help_shows_every_setting_with_its_defaults(tmp_path):
    done = program(tmp_path, ["--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(run.__doc__.strip()) and done.stdout.endswith("False\n")
    text = " ".join(done.stdout.split())
    for section in to_json(digits).values():
        assert all(f"{name}:" in text for name in section)
    assert "[digits: 1; recipe: 1.5; clean: 1.5; published: 1.5]" in text
    assert (
        "--schedule: <step|cosine|constant>:" in text and "[digits: step; recipe: cosine;" in text
    )
