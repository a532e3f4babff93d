"""Imports go one way, flags stay in the programs, files stay small, tests have their module."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "bbo").rglob("*.py"))
PROGRAMS = sorted(
    path for folder in ("experiments", "launch") for path in (ROOT / folder).rglob("*.py")
)

LEAVES = (
    "perturb noise pruning prepared records data recovery least_squares models optim metrics "
    "sharding checkpoint workdir report progress preemption flow export comparison timing "
    "selecting drawing dispatch"
)
ORDER = [
    "types catalog",
    "fields",
    "settings",
    "config trees",
    LEAVES,
    "methods",
    "train evaluate selection study figures tracing roofline",
    "programs tables channels cost",
    "runs zeros resizing grouping savings staying scaling",
    "compaction targets",
    "fitting curves",
    "iterating members",
    "shrinking benchmarking",
    "pipeline stepwise",
]
RANKS = {name: rank for rank, modules in enumerate(ORDER) for name in modules.split()}

BETWEEN_LEAVES = {
    ("noise", "perturb"),
    ("noise", "drawing"),
    ("perturb", "drawing"),
    ("perturb", "selecting"),
    ("data", "records"),
    ("records", "prepared"),
    ("metrics", "workdir"),
    ("recovery", "least_squares"),
    ("report", "workdir"),
}
"""The only imports between modules of the rank of the leaves; within ``models`` all may."""

WITHIN_RANK = {("settings", "catalog")}
"""Others that stay in their rank."""


def imported(path: pathlib.Path) -> set[str]:
    """Full names of all modules that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: pathlib.Path) -> str:
    """``noise`` for bbo/noise.py; ``models`` for all that lies in bbo/models."""
    return path.relative_to(ROOT / "bbo").parts[0].removesuffix(".py")


MODULES = [path for path in LIBRARY if path != ROOT / "bbo" / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_imports_go_one_way(path):
    module = module_of(path)
    assert module in RANKS, f"give {module} its rank in {pathlib.Path(__file__).name}"
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        assert package not in ("experiments", "launch", "tests"), f"{module} imports {name}"
        if package != "bbo" or other == module:
            continue
        downward = RANKS[other] < RANKS[module]
        assert downward or (module, other) in BETWEEN_LEAVES | WITHIN_RANK, (
            f"{module} imports {other}, which is not below it"
        )


def test_the_library_reads_no_flag():
    for path in LIBRARY:
        flags = {name for name in imported(path) if name.startswith(("absl.flags", "absl.app"))}
        assert not flags, f"{path.name} imports {flags}"


def test_the_order_lists_only_modules_that_exist():
    assert set(RANKS) <= {module_of(path) for path in MODULES}


def test_what_refuses_wrong_settings_loads_no_jax():
    light = ("types", "catalog", "settings", "config", "prepared", "workdir")
    code = (
        "import sys; from absl import flags; before = set(flags.FLAGS)\n"
        "import bbo, " + ", ".join(f"bbo.{name}" for name in light) + "\n"
        "heavy = {'jax', 'flax', 'optax', 'numpy', 'sklearn', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(set(flags.FLAGS) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[] []\n", "")


def test_launchers_need_nothing_but_python_and_absl():
    light = {"absl", "bbo", "experiments", "launch", *sys.stdlib_module_names}
    for path in (path for path in PROGRAMS if path.is_relative_to(ROOT / "launch")):
        assert {name.partition(".")[0] for name in imported(path)} <= light, path.name
    code = (
        "import sys, pkgutil, importlib, launch, experiments.run\n"
        "for module in pkgutil.iter_modules(launch.__path__):\n"
        "    importlib.import_module(f'launch.{module.name}')\n"
        "print(sorted({'jax', 'numpy', 'pandas', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("folder", ["bbo", "experiments", "launch"])
def test_no_file_is_longer_than_300_lines(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in LIBRARY + PROGRAMS
        if path.relative_to(ROOT).parts[0] == folder
    }
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_every_test_file_names_a_module():
    packages = [path.parent for path in LIBRARY + PROGRAMS if path.name == "__init__.py"]
    modules = {path.stem for path in LIBRARY + PROGRAMS} | {path.name for path in packages}
    # Of the whole, not of a module.
    modules |= {"architecture", "notebooks", "processes", "readme"}
    files = (ROOT / "tests").glob("test_*.py")
    # test_golden_NAME compares the module with recorded values of the authors' program;
    # test_NAME_TOPIC is a part of its tests.
    named = tuple(f"test_{prefix}{name}" for name in modules for prefix in ("", "golden_"))
    strays = [
        path.stem
        for path in files
        if not f"{path.stem}_".startswith(tuple(f"{name}_" for name in named))
    ]
    assert not strays, f"no module for {strays}"
