"""Random settings: refused in one line before anything is written, or a run that works."""

import dataclasses
import pathlib
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bbo.settings.config import ExperimentConfig, sections
from bbo.types import UsageError
from experiments import presets, run
from experiments.command_line import setting_flags
from experiments.command_line.program import parse
from tests.faults.runs import ROOT

BASE = ("--epochs=1", "--batch_size=256", "--width=0.25", "--sparsities=0,0.5", "--recovery=none")
"""A run of seconds; what is drawn comes after it, and the last of two flags counts."""
PARSING = threading.Lock()
"""The flags of a program hold one vector at a time."""
LONGEST = 90
"""Seconds after which a run that works is let be."""
NUMBERS = (*"0 1 -1 0.5 0.9 1e-3 2 3 1e9 1e300 nan inf -0 x".split(), "")
WHOLE = ("0", "1", "2", "3", "-1", "64", "4294967295", "4294967296", "1" + "0" * 30, "1.5", "", "x")
TEXTS = (*"conv ^conv0/kernel$ head kernel scale ( * nothing é /x".split(), "")


def _values(field: dataclasses.Field) -> st.SearchStrategy[str]:
    """Texts for a flag, good ones and others."""
    choices = field.metadata["one_of"] or field.metadata["some_of"]
    if choices:
        some = st.lists(st.sampled_from([*choices]), max_size=3 if field.metadata["some_of"] else 1)
        return some.map(",".join) | st.sampled_from([*choices]) | st.just("nonsense")
    number = st.sampled_from(NUMBERS) | st.floats(0, 1).map(str)
    return {
        int: st.sampled_from(WHOLE) | st.integers(0, 300).map(str),
        float: number | st.floats().map(str),
        str: st.sampled_from(TEXTS),
        tuple: st.lists(number, max_size=4).map(",".join),
    }[type(field.default)]


def _flag(field: dataclasses.Field) -> st.SearchStrategy[str]:
    if type(field.default) is bool:
        return st.sampled_from([f"--{field.name}", f"--no{field.name}", f"--{field.name}=maybe"])
    return _values(field).map(lambda text: f"--{field.name}={text}")


FIELDS = [x for kind in sections(ExperimentConfig).values() for x in dataclasses.fields(kind)]
PRESETS = st.sampled_from(["digits", "recipe", "clean"]).map("--preset={}".format)
VECTORS = st.tuples(
    st.lists(PRESETS, max_size=1),
    st.lists(st.sampled_from(FIELDS).flatmap(_flag), min_size=1, max_size=5),
).map(lambda parts: [*parts[0], *BASE, *parts[1]])
"""Flags of ``experiments.run``, one to five of them drawn."""


class Tried(NamedTuple):
    """A vector, and what came of it."""

    vector: str
    outcome: str
    """``refused``, ``worked``, ``failed in a line``, ``too long`` or ``BAD``."""
    told: str


def settings_of(vector: Sequence[str]) -> ExperimentConfig | None:
    """The settings of a vector; None if it is refused.

    Any other error than UsageError is a fault.
    """
    with PARSING:
        try:
            parse(run.FLAGS, ["run", *vector])
            return setting_flags.settings_from(run.FLAGS, presets.PRESETS)
        except UsageError:
            return None


def is_short(config: ExperimentConfig) -> bool:
    """Whether a run ends within a minute, as far as the settings tell."""
    again = config.iterations.prune_iterations * config.iterations.retrain_epochs
    cost = (config.train.epochs + again) * max(1, 64 / config.train.batch_size)
    points = len(config.pruning.sparsities) * len(config.pruning.recovery)
    return max(cost, points) <= 30 and config.model.width <= 1


def try_vector(vector: Sequence[str], folder: pathlib.Path) -> Tried:
    """Runs ``experiments.run`` with a vector, unless it would take long."""
    text = " ".join(flag for flag in vector if flag not in BASE)
    config = settings_of(vector)
    if config is not None and not is_short(config):
        return Tried(text, "too long", "")
    command = [sys.executable, "-m", "experiments.run", f"--workdir={folder}", *vector]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "errors": "replace"}
    try:
        ended = subprocess.run(command, cwd=ROOT, check=False, timeout=LONGEST, **pipes)
    except subprocess.TimeoutExpired:
        return Tried(text, "too long", "")
    lines = ended.stderr.strip().splitlines()
    outcome = "BAD"
    if "Traceback" not in ended.stderr:
        if ended.returncode == 0 and (folder / "summary.json").exists():
            outcome = "worked"
        if ended.returncode == 1 and lines and lines[-1].startswith("failed:"):
            outcome = "failed in a line"
        if ended.returncode == 2 and len(lines) == 1 and lines[0].startswith("error:"):
            outcome = "BAD" if folder.exists() else "refused"
    return Tried(text, outcome, "\n".join(lines)[-300:])


def drawn(count: int, number: int) -> list[list[str]]:
    """Vectors, the same for the same ``number``."""
    found: list[list[str]] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(VECTORS)
    def collect(vector: list[str]) -> None:
        found.append(vector)

    collect()
    return found
