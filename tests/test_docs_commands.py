"""Commands and flags that people read are taken by the programs."""

import importlib
import pathlib
import re

import documents
import pytest

from bbo.types import UsageError
from experiments import run as experiment
from experiments.command_line.program import parse, run_program

MAKEFILE = documents.text_of(documents.ROOT / "Makefile")
SETUP = documents.text_of(documents.ROOT / "setup.py")
PROGRAMS = ("prepare", "compact", "report", "benchmark", "scale")
LAUNCHERS = ("launch.local", "launch.slurm", "launch.tpu", "launch.k8s")
COMMANDS = [
    pytest.param(words, id=f"{documents.name_of(path)}: {' '.join(words)}")
    for path in documents.DOCUMENTS
    for words in documents.commands(documents.text_of(path))
]


def check_make(words, capsys):
    target = words[1]
    assert re.search(rf"^{target}:", MAKEFILE, re.M)
    for word in words[2:]:
        name, _, value = word.partition("=")
        assert name == "FLAGS" and target == "run"
        experiment.check(["run", *value.split()])


def check_pip(words, capsys):
    if words[1:3] == ["install", "--no-deps"]:
        assert words[3] in MAKEFILE  # what the tests are run with
        return
    if words[1] == "wheel":
        assert words[2:] == ["--no-deps", "."]
        return
    assert words[1:3] == ["install", "-e"]
    extra = re.fullmatch(r"\.(?:\[(\w+)\])?", words[3])
    assert extra and (not extra[1] or f'"{extra[1]}": ' in SETUP)


def check_python(words, capsys):
    _, option, module, *arguments = words
    assert option == "-m"
    if module == "experiments.run":
        if arguments != ["--help"]:
            experiment.check(["run", *arguments])
    elif module in LAUNCHERS:
        check_launcher(module, arguments, capsys)
    elif module == "launch.status":
        parse(importlib.import_module(module).FLAGS, ["status", *arguments], ["OUT"])
    else:
        program = importlib.import_module(f"{module}.program")
        assert module.removeprefix("experiments.") in (*PROGRAMS, "tests.faults")
        argv = ["program", *arguments]
        folders = program.positional(argv) if hasattr(program, "positional") else ()
        parse(program.FLAGS, argv, folders)


def check_launcher(module, arguments, capsys):
    """Prints what it would do, without a mistake, and writes nothing."""
    try:
        program = importlib.import_module(f"{module}.program")
    except ModuleNotFoundError:
        program = importlib.import_module(module)
    argv = [module, "--dry_run", *arguments]
    if hasattr(program, "run"):  # what follows -- is sbatch's
        status = program.run(argv)
    else:
        status = run_program(program.main, program.FLAGS, argv, positional=("SPEC", "OUT"))
    shown = capsys.readouterr()
    assert (status, len(shown.out) > 0) == (0, True), shown.err
    assert not pathlib.Path("runs").exists()


def check_source(words, capsys):
    assert words[1:] == [".venv/bin/activate"] and "-m venv .venv" in MAKEFILE


def check_jupyter(words, capsys):
    assert words[1] == "lab" and (documents.ROOT / words[2]).is_file()


CHECKS = {
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "source": check_source,
    "jupyter": check_jupyter,
}


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_taken(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(documents.ROOT / "experiments")
    monkeypatch.setenv("PATH", "")  # no cluster is asked
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # set for this command
        words = words[1:]
    CHECKS[words[0]](words, capsys)


def flags_of(module):
    try:
        return importlib.import_module(f"{module}.program").FLAGS
    except ModuleNotFoundError:
        return importlib.import_module(module).FLAGS


ALL_FLAGS = [
    experiment.FLAGS,
    *(flags_of(f"experiments.{name}") for name in PROGRAMS),
    *(flags_of(module) for module in (*LAUNCHERS, "launch.status", "tests.faults")),
]
NOT_PARSED = ("--help", "--xla_cpu_experimental_ynn_fusion_type")


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=documents.name_of)
def test_flags_that_are_named_exist_and_take_their_values(document):
    for flag in documents.named_flags(documents.text_of(document)):
        name, _, value = flag.removeprefix("--").partition("=")
        if flag in NOT_PARSED:
            continue
        known = [flags for flags in ALL_FLAGS if name in flags]
        assert known, flag
        if value:
            assert any(is_taken(flags, flag) for flags in known), flag


def is_taken(flags, flag):
    try:
        parse(flags, ["program", flag])
    except UsageError:
        return False
    return True
