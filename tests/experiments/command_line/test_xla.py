"""What programs set for XLA: once, where the user has not, and never at the cost of a run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from bbo.settings import provenance
from experiments.command_line import xla

NAMES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    "XLA_FLAGS",
    "JAX_PLATFORMS",
)


class Probes(list):
    """The flags that were tried, and how that ends."""

    result = 0, ""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's empty home; jax is not loaded yet, and sees the CPU alone."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(xla, "_is_for_cpu", lambda: True)
    return tmp_path


@pytest.fixture
def probes(monkeypatch):
    found = Probes()

    def probe(flag):
        found.append(flag)
        return subprocess.CompletedProcess((), found.result[0], "", found.result[1])

    monkeypatch.setattr(xla, "_try", probe)
    return found


def settings():
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_compiled_programs_are_kept_in_a_folder_of_this_kind_of_machine(home, monkeypatch):
    xla.prepare(fusions=False)
    (folder,) = (home / ".cache/bbo/compiled").iterdir()
    assert settings() == dict(zip(NAMES, (str(folder), "0", "-1"), strict=False))
    names = {xla._machine()}
    # XLA splits the work of a program among the cores that it sees when it compiles it.
    monkeypatch.setenv("NPROC", "3")
    names.add(xla._machine())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1000), raising=False)
    names.add(xla._machine())
    monkeypatch.setattr(
        pathlib.Path, "read_text", lambda *_, **__: "flags\t\t: sse\nflags\t\t: sse"
    )
    names.add(xla._machine())
    monkeypatch.setattr(pathlib.Path, "read_text", lambda *_, **__: "flags\t\t: sse avx512f\n")
    names.add(xla._machine())
    assert len(names) == 5 and folder.name in names


def test_what_the_user_has_set_holds(home, probes, monkeypatch):
    given = dict(
        zip(NAMES, ("", "2", "7", "--xla_cpu_experimental_ynn_fusion_type="), strict=False)
    )
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    xla.prepare(fusions=True)
    assert settings() == given and not probes
    monkeypatch.setenv("XLA_FLAGS", "flags.txt")  # a file, to which nothing can be appended
    xla.prepare(fusions=True)
    assert settings() == given | {"XLA_FLAGS": "flags.txt"} and not probes
    assert not any(home.iterdir())


def test_nothing_is_set_for_a_jax_that_is_loaded(home, probes, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    xla.prepare(fusions=True)
    assert settings() == {} and not probes and not any(home.iterdir())


def test_a_process_of_many_does_not_look_for_programs_that_others_may_lack(home):
    xla.prepare(fusions=False, distributed=True)
    assert settings() == {}


def test_a_jaxlib_that_complains_about_each_program_keeps_none(home, monkeypatch):
    monkeypatch.setattr(xla, "QUIET", (1000,))
    xla.prepare(fusions=False)
    assert settings() == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_flag_is_tried_once_for_each_jaxlib(home, probes, monkeypatch, known):
    probes.result = (0, "") if known else (1, f"Unknown flag in XLA_FLAGS: {xla.FUSIONS}")
    flags = "--xla_force_host_platform_device_count=8"
    for _ in range(2):
        monkeypatch.setenv("XLA_FLAGS", flags)
        xla.prepare(fusions=True)
        assert os.environ["XLA_FLAGS"] == (f"{flags} {xla.FUSIONS}" if known else flags)
    assert probes == [xla.FUSIONS]
    (kept,) = (home / ".cache/bbo/xla_flags").iterdir()
    assert json.loads(kept.read_text()) == {xla.FUSIONS: known}
    monkeypatch.setattr(xla, "FUSIONS", "--xla_another")
    xla.prepare(fusions=True)
    assert probes[1:] == ["--xla_another"]


@pytest.mark.parametrize("result", [(137, "Killed"), None])
def test_a_trial_that_says_nothing_is_not_kept(home, probes, monkeypatch, result):
    probes.result = result
    if result is None:
        monkeypatch.setattr(xla, "_try", lambda _: None)
    xla.prepare(fusions=True)
    assert "XLA_FLAGS" not in os.environ
    assert not list((home / ".cache/bbo/xla_flags").iterdir())


@pytest.mark.parametrize("kept", ["", "[1]", "{}", "\x00"])
def test_an_answer_that_cannot_be_read_is_asked_for_again(home, probes, kept):
    folder = home / ".cache/bbo/xla_flags"
    folder.mkdir(parents=True)
    xla.prepare(fusions=True)
    (path,) = folder.iterdir()
    path.write_text(kept)
    xla.prepare(fusions=False)
    del os.environ["XLA_FLAGS"]
    xla.prepare(fusions=True)
    assert os.environ["XLA_FLAGS"] == xla.FUSIONS and len(probes) == 2


def test_a_home_that_cannot_be_written_costs_a_trial_each_time_and_no_more(
    home, probes, monkeypatch, capfd
):
    (home / ".cache").write_text("a file where a folder should be")
    for _ in range(2):
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        xla.prepare(fusions=True)
        assert settings() == {"XLA_FLAGS": xla.FUSIONS}
    assert len(probes) == 2
    monkeypatch.setattr(xla, "HOME", pathlib.Path("~nobody_has_this_name/x"))
    monkeypatch.delenv("XLA_FLAGS")
    xla.prepare(fusions=True)
    assert settings() == {"XLA_FLAGS": xla.FUSIONS}
    assert capfd.readouterr() == ("", "")


def test_flags_are_for_a_jax_that_will_choose_the_cpu(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    if xla.importlib.util.find_spec("jax_plugins") is None:
        assert xla._is_for_cpu()
    (tmp_path / "jax_plugins").mkdir()  # where those of GPUs are
    assert not xla._is_for_cpu()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert xla._is_for_cpu()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert not xla._is_for_cpu()


def test_jaxlib_is_asked_about_flags():
    known, unknown = (xla._try(f"--xla_{name}") for name in ("cpu_use_xnnpack=true", "not_one=1"))
    assert known.returncode == 0 and unknown.returncode != 0
    assert "--xla_not_one=1" in unknown.stderr


def test_numbers_are_those_of_the_records(home, monkeypatch, capfd):
    changed = {"JAX_ENABLE_X64": "true", "JAX_THREEFRY_PARTITIONABLE": "0"}
    changed |= {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_RANDOM_SEED_OFFSET": "3"}
    standard = {"JAX_ENABLE_CUSTOM_PRNG": "off", "JAX_DEFAULT_PRNG_IMPL": "threefry2x32"}
    for name, value in (changed | standard | {"JAX_DEBUG_NANS": "1"}).items():
        monkeypatch.setenv(name, value)
    xla.prepare(fusions=False)
    assert not (changed | standard).keys() & os.environ.keys()
    assert os.environ["JAX_DEBUG_NANS"] == "1"  # changes no number
    told = capfd.readouterr().err.splitlines()
    assert sorted(line.partition(" is not used")[0] for line in told) == sorted(
        f"{name}={value}" for name, value in changed.items()
    )


def test_all_settings_of_numbers_are_those_of_this_jax():
    program = "from bbo.settings import provenance; print(provenance.unusual_settings())"
    usual = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    for more, told in (({}, "{}"), ({"JAX_ENABLE_X64": "1"}, "{'jax_enable_x64': True}")):
        environment = usual | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment | more, capture_output=True, text=True
        )
        assert (done.stdout.strip(), done.stderr) == (told, "")


PROGRAM = """
from experiments.command_line import xla
xla.prepare(fusions=True)
import jax
counts = {"hits": 0, "misses": 0}
def count(name, **_):
    if name.startswith("/jax/compilation_cache/cache_"):
        counts[name.rpartition("_")[2]] += 1
jax.monitoring.register_event_listener(count)
from bbo.settings import provenance
jax.block_until_ready(jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((64, 64))))
print(counts["hits"], counts["misses"], provenance.environment().get("xla_flags"))
"""


@pytest.mark.skipif(xla._version() < xla.QUIET, reason="this jaxlib keeps none")
def test_programs_are_found_again_in_silence(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        found.append(done.stdout.split(maxsplit=2))
    (first, second), flags = (run[:2] for run in found), found[0][2].strip()
    assert first[0] == second[1] == "0" and second[0] == first[1] != "0"
    assert flags in (xla.FUSIONS, "None")


def test_flags_are_recorded_without_places(monkeypatch):
    provenance.environment()  # jax reads its own now, and not again
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert "xla_flags" not in provenance.environment()
    monkeypatch.setenv("XLA_FLAGS", " --xla_cpu_fast=true --xla_dump_to=/home/me/dump ")
    assert provenance.environment()["xla_flags"] == "--xla_cpu_fast=true --xla_dump_to=PATH"
    monkeypatch.setenv("XLA_FLAGS", "/home/me/flags")
    assert provenance.environment()["xla_flags"] == "PATH"
