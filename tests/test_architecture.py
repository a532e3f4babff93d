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
FLOORS = [
    {"bbo.types", "bbo.files"},
    {"bbo.trees", "bbo.settings"},
    {"bbo.compaction"},
    {"bbo.noise", "bbo.models", "bbo.data"},
    {"bbo.pruning", "bbo.training"},
    {"bbo.pipeline", "bbo.__main__"},
    {"experiments"},
    {"launch"},
]
"""Each may import what lies on the floors below; rooms on one floor know nothing of each other."""
LIGHT = {"bbo.types", "bbo.files", "bbo.settings", "experiments.command_line"}
"""What the launchers import besides the standard library and absl."""


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
    """``bbo.noise.bridgeout`` for bbo/noise/bridgeout.py, ``bbo.noise`` for its face."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(name: str) -> str:
    """``bbo.noise`` for all that lies there; ``experiments`` and ``launch`` are whole."""
    parts = name.split(".")
    if parts[:2] == ["bbo", "__version__"]:
        return ""
    return ".".join(parts[:2]) if parts[0] == "bbo" else parts[0]


MODULES = {module_of(path): path for path in LIBRARY + PROGRAMS}
EDGES = {
    module: {
        name for name in imported(path) if name.split(".")[0] in ("bbo", "experiments", "launch")
    }
    for module, path in MODULES.items()
}


def test_imports_go_down():
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    floor_of["bbo"] = floor_of["bbo.pipeline"]  # its face shows what lies below
    wrong = [
        f"{module} imports {name}"
        for module, names in EDGES.items()
        for name in names
        if room_of(module) != "bbo"
        and room_of(name) != room_of(module)
        and floor_of[room_of(name)] >= floor_of[room_of(module)]
    ]
    assert wrong == []


def test_there_is_no_circle():
    def target(name: str) -> str:
        while name not in MODULES:
            name = name.rpartition(".")[0]
        return name

    left = {module: {target(name) for name in names} - {module} for module, names in EDGES.items()}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert left == {}, "these import each other"


def test_no_room_is_entered_through_its_own_face():
    wrong = [
        f"{module} imports {name}"
        for module, names in EDGES.items()
        for name in names
        if room_of(module).startswith("bbo.")
        and name.rpartition(".")[0] == room_of(module) != module
        and name not in MODULES
    ]
    assert wrong == []


def test_the_house_can_be_seen_at_once():
    entries = [path for path in (ROOT / "bbo").iterdir() if not path.name.startswith("__")]
    assert len(entries) <= 12
    assert {module.split(".")[1] for module in MODULES if module.startswith("bbo.")} == {
        room.split(".")[1] for floor in FLOORS[:6] for room in floor
    }


def test_the_library_reads_no_flag():
    for path in LIBRARY:
        flags = {name for name in imported(path) if name.startswith(("absl.flags", "absl.app"))}
        assert not flags, f"{path.name} imports {flags}"


def loaded_by(code: str, *names: str) -> set[str]:
    """Which of some modules a fresh process has loaded after ``code``."""
    code += f"\nimport sys; print(*sorted({set(names)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    return set(done.stdout.split())


HEAVY = ("jax", "flax", "optax", "numpy", "sklearn", "pandas", "matplotlib")


def test_what_refuses_wrong_settings_loads_nothing():
    rooms = [module for module in MODULES if module.startswith("bbo.settings")]
    code = f"import bbo, bbo.types, bbo.files, bbo.pipeline, {', '.join(rooms)}"
    assert loaded_by(code, *HEAVY, "absl") == set()


def test_whoever_reads_a_finished_run_loads_no_jax():
    assert loaded_by("from bbo.pipeline import read_run", "jax", "flax") == set()


def test_importing_the_library_touches_no_device():
    code = (
        "from bbo import compaction, noise, pruning\n"
        "from bbo.pruning.recovery import reestimate\n"
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    assert loaded_by(code, "pandas") == set()


FACES = """
import sys
import jax.numpy as jnp
import jax.scipy
before = set(sys.modules)
from bbo import compaction, noise, pruning

added = {name.partition(".")[0] for name in set(sys.modules) - before}
assert added <= {"bbo", "jax", "jaxlib", "numpy", "scipy", *sys.stdlib_module_names}, added
kernel = jnp.ones((3, 3, 2, 4)).at[..., 0].set(0.5)
params = {"kernel": kernel, "head": jnp.ones((4, 2))}
images = jnp.ones((1, 4, 4, 2))

def function(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    outputs = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=layout
    )
    return jnp.maximum(outputs, 0).sum((1, 2)) @ params["head"]

noise.dropconnect(rate=0.5).weights(jax.random.key(0), params)
pruned = pruning.prune(params, 0.25)
assert compaction.compact(function, pruned, images).variables["head"].shape == (3, 2)
assert compaction.count_macs(function, params, images) == 16 * 72 + 8
"""


def test_the_faces_need_jax_numpy_and_scipy_alone():
    """Of what others have written; flax and optax are for our networks and their training."""
    others = ("equinox", "orbax", "tensorflow_datasets", "tqdm")
    assert loaded_by(FACES, *{*HEAVY, *others} - {"jax", "numpy"}, "absl") == set()


def test_launchers_need_nothing_but_python_and_absl():
    light = {"absl", "bbo", "experiments", "launch", *sys.stdlib_module_names}
    modules = [module for module in MODULES if module.split(".")[0] == "launch"]
    for module in modules:
        names = imported(MODULES[module])
        assert {name.partition(".")[0] for name in names} <= light, module
        ours = {".".join(name.split(".")[:2]) for name in EDGES[module]} - set(modules)
        assert {name for name in ours if not name.startswith("launch")} <= LIGHT, module
    started = [module for module in modules if not module.endswith("__main__")]
    code = f"import experiments.run, {', '.join(started)}"
    assert loaded_by(code, "jax", "numpy", "pandas", "tqdm") == set()


@pytest.mark.parametrize("folder", ["bbo", "experiments", "launch", "tests"])
def test_no_file_is_longer_than_300_lines(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in LIBRARY if path.stem == "__init__"})
)
def test_faces_define_nothing(room):
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lazy = room.name in ("bbo", "pipeline", "recovery")
    assert set(defined) <= {"__getattr__", "__dir__"} if lazy else not defined


def test_every_test_file_names_a_module_of_its_room():
    strays = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.relative_to(ROOT / "tests").parent
        folder = ROOT / (
            room if room.parts[:1] in (("experiments",), ("launch",)) else "bbo" / room
        )
        # test_golden_NAME compares a module, or a room, with recorded values of the authors'
        # program; test_NAME_TOPIC is a part of its tests.
        names = {child.stem for child in folder.iterdir()} | {folder.name}
        names |= (
            {"architecture", "processes", "readme", "docs"} if room == pathlib.Path() else set()
        )
        topic = path.stem.removeprefix("test_").removeprefix("golden_")
        if not f"{topic}_".startswith(tuple(f"{name}_" for name in names)):
            strays.append(str(path.relative_to(ROOT)))
    assert strays == []
