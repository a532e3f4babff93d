"""A sweep: runs listed once in plain Python, frozen to a file, and done line by line anywhere.

  python -m launch.sweep SPEC OUT            freezes the runs of SPEC and prints their commands
  python -m launch.sweep OUT INDEX [FLAGS]   becomes run INDEX, with further flags if given

SPEC is a Python file with SCRIPT, the module of a program that takes --workdir, and runs(), which
yields the flags of each run as a dict. They are written to OUT/runs.jsonl, one line a run: a line
number must not change its meaning while jobs wait, so runs may be appended to SPEC later, but not
changed, except for where data lie: that of the last launch holds. Run 7 works in OUT/0007; it is
done when summary.json is there, and its files are what their digests say.
"""

import importlib
import json
import os
import pathlib
import runpy
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import flags

from bbo.files import parse_json, write_text
from bbo.settings import workdir as workdirs
from bbo.settings.workdir import PLACES, is_done
from bbo.types import UsageError
from experiments.command_line.program import is_plain, leave, run_program

FLAGS = flags.FlagValues()
Scalar = bool | int | float | str


class Run(NamedTuple):
    """One line of a sweep."""

    script: str
    """A module, for ``python -m``."""
    flags: dict[str, Any]
    """Values by flag; a list is given as a,b,c."""


def freeze(spec: pathlib.Path, out: pathlib.Path) -> list[Run]:
    """The runs of a spec, after they have been written to ``out/runs.jsonl``.

    Raises:
      UsageError: the spec cannot be read, a run is not one that its script takes, or ``out`` holds
        runs that the spec no longer begins with.
    """
    runs = plan(spec, out)
    write(spec, out, runs)
    return runs


def write(spec: pathlib.Path, out: pathlib.Path, runs: list[Run]) -> None:
    """Writes the runs of a spec that were planned to ``out/runs.jsonl``.

    Raises:
      UsageError: ``out`` cannot be written, or another launcher has frozen other runs there since.
    """
    with workdirs.held(out):
        _check_begins(spec, out, runs)
        try:
            write_text(out / "runs.jsonl", "".join(_line(run) + "\n" for run in runs))
        except OSError as error:
            raise UsageError(f"{out} cannot be written: {error.strerror}; name another") from None


def plan(spec: pathlib.Path, out: pathlib.Path) -> list[Run]:
    """As ``freeze``, but writes nothing."""
    runs = load_spec(spec)
    _check_repeated(spec, runs, new_from=_check_begins(spec, out, runs))
    return runs


def _check_begins(spec: pathlib.Path, out: pathlib.Path, runs: list[Run]) -> int:
    """Checks that the runs of a spec begin with those that a folder holds; gives their number."""
    held = read_runs(out) if (out / "runs.jsonl").exists() else []
    for index, old in enumerate(held):
        new = runs[index] if index < len(runs) else None
        if new is None or _identity(new) != _identity(old):
            now = f"now {describe(new)}" if new else "gone now"
            raise UsageError(
                f"run {index} of {out} is {describe(old)} there and {now} in {spec}; "
                "runs may be appended but not changed: restore it, or name another folder"
            )
    return len(held)


def load_spec(spec: pathlib.Path) -> list[Run]:
    """The runs that a spec lists, each checked.

    Raises:
      UsageError: it is no spec, or its script refuses a run.
    """
    script, runs = _execute(spec)
    if not isinstance(script, str):
        raise UsageError(f"{spec}: SCRIPT {script!r} cannot be imported; name a module, as text")
    seen, found = {}, []
    for index, flag_values in enumerate(runs):
        where = f"run {index} of {spec}"
        _check_values(where, flag_values)
        run = Run(script, flag_values)
        earlier = seen.setdefault(_identity(run), index)
        if earlier != index:
            raise UsageError(f"{where} is the same as run {earlier}; list each once")
        found.append(_parse(_line(run)))  # as it will be read, with lists for tuples
    if not found:
        raise UsageError(f"{spec}: runs() yields no run")
    _check_with_script(spec, script, found)
    return found


def _execute(spec: pathlib.Path) -> tuple[str, list[Any]]:
    if not spec.is_file():
        raise UsageError(f"there is no spec {spec}; name a Python file with SCRIPT and runs()")
    try:
        names = runpy.run_path(str(spec))
        return names["SCRIPT"], list(names["runs"]())
    except KeyError as error:
        if error.args[0] not in ("SCRIPT", "runs"):
            raise UsageError(f"{spec} fails: KeyError: {error}") from None
        raise UsageError(f"{spec} has no {error.args[0]}; it needs SCRIPT and runs()") from None
    except Exception as error:  # it is a program of the user's and may fail in any way
        raise UsageError(f"{spec} fails: {type(error).__name__}: {error}") from None


def _check_values(where: str, flag_values: Any) -> None:
    if not isinstance(flag_values, dict):
        raise UsageError(f"{where} is {flag_values!r}; it must be a dict of flags")
    for name, value in flag_values.items():
        if not isinstance(name, str):
            raise UsageError(f"{where} has {name!r} for the name of a flag; it must be text")
        if name in ("workdir", "distributed"):
            raise UsageError(f"{where} sets {name}, which the launcher does; leave it out")
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, Scalar) for item in items):
            raise UsageError(f"{where}: {name} is {value!r}; it must be text, a number or a list")
        if not all(map(is_plain, [name, *map(str, items)])):
            raise UsageError(f"{where}: {name} is {value!r}; no command can hold such a character")


def _check_with_script(spec: pathlib.Path, script: str, runs: Iterable[Run]) -> None:
    """Lets the script itself refuse wrong flags, if it has ``check(argv)``: now, and not at night.

    That must work where jax is not installed.
    """
    try:
        module = importlib.import_module(script)
    except Exception as error:  # also of what it imports
        raise UsageError(f"{spec}: SCRIPT {script!r} cannot be imported: {error}") from None
    check = getattr(module, "check", None)
    for index, run in enumerate(runs if check else ()):
        try:
            check([script, *flag_arguments(run)])
        except UsageError as error:
            raise UsageError(f"run {index} of {spec}: {error}") from None


def _check_repeated(spec: pathlib.Path, runs: Sequence[Run], *, new_from: int) -> None:
    """Refuses a run that does what an earlier one does, if its script tells.

    That is, if it has ``repeated_commands``, which takes a list of what ``check`` takes.
    """
    find = getattr(importlib.import_module(runs[0].script), "repeated_commands", None)
    repeats = find([[run.script, *flag_arguments(run)] for run in runs]) if find else {}
    for index, earlier in repeats.items():
        if index >= new_from:
            raise UsageError(
                f"run {index} of {spec}, {describe(runs[index])}, trains what run {earlier} does, "
                f"{describe(runs[earlier])}: settings that differ have no effect; list each once"
            )


def read_runs(out: pathlib.Path) -> list[Run]:
    """The frozen runs of a folder.

    Raises:
      UsageError: there are none.
    """
    path = out / "runs.jsonl"
    try:
        return [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise UsageError(f"{out} is not the folder of a sweep: it has no runs.jsonl") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as runs of a sweep: {error}") from None


def _parse(line: str) -> Run:
    record = parse_json(line)
    run = Run(record["script"], record["flags"])
    if not isinstance(run.script, str) or not isinstance(run.flags, dict):
        raise ValueError("a line needs the text script and the object flags")
    return run


def _line(run: Run) -> str:
    return json.dumps(run._asdict())


def _identity(run: Run) -> str:
    """Equal for runs that do the same: the order of flags does not count, nor where data lie.

    True is not 1.
    """
    kept = {name: value for name, value in run.flags.items() if name not in PLACES}
    return json.dumps([run.script, kept], sort_keys=True)


def describe(run: Run) -> str:
    """A run in a few words: ``noise=dropout,seed=1``."""
    return ",".join(f"{name}={text_of(value)}" for name, value in run.flags.items()) or "(no flags)"


def labels(runs: list[Run]) -> list[str]:
    """Each run in the words that tell it from the others: the flags that are not alike in all."""
    names = {name for run in runs for name in run.flags}
    differ = {name for name in names if len({json.dumps(run.flags.get(name)) for run in runs}) > 1}
    kept = differ or names
    return [
        describe(run._replace(flags={name: run.flags[name] for name in run.flags if name in kept}))
        for run in runs
    ]


def text_of(value: Any) -> str:
    """The value of a flag as it is given in a command."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def flag_arguments(run: Run) -> list[str]:
    """The flags of a run as arguments: ``--rate=0.1``, ``--augment``, ``--noaugment``."""
    return [
        ("--" if value else "--no") + name
        if isinstance(value, bool)
        else f"--{name}={text_of(value)}"
        for name, value in run.flags.items()
    ]


def workdir(out: pathlib.Path, index: int) -> pathlib.Path:
    """The folder of a run."""
    return out / f"{index:04d}"


def command(out: pathlib.Path, index: int, run: Run, python: str = sys.executable) -> list[str]:
    """What does a run: the arguments of a process."""
    return [
        python,
        "-m",
        "bbo",
        run.script,
        f"--workdir={workdir(out, index)}",
        *flag_arguments(run),
    ]


def unfinished(out: pathlib.Path, runs: list[Run]) -> list[int]:
    """The indices of the runs that are not done."""
    return [index for index in range(len(runs)) if not is_done(workdir(out, index))]


def main(values: flags.FlagValues, spec: str, out: str) -> None:
    """Freezes a sweep and prints the command of every run."""
    folder = pathlib.Path(out)
    for index, run in enumerate(freeze(pathlib.Path(spec), folder)):
        print(shlex.join(command(folder, index, run)))


def become(out: pathlib.Path, index: int, further: list[str]) -> NoReturn:
    """Replaces this process by run ``index``, so that signals reach the training itself."""
    runs = read_runs(out)
    if index >= len(runs):
        raise UsageError(f"{out} has no run {index}: it has {len(runs)}, counted from 0")
    arguments = command(out, index, runs[index])
    os.execv(arguments[0], [*arguments, *further])


if __name__ == "__main__":
    if sys.argv[2:] and sys.argv[2].isdecimal() and pathlib.Path(sys.argv[1]).is_dir():
        one = lambda _: become(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])  # noqa: E731
        leave(run_program(one, FLAGS, sys.argv[:1]))
    leave(run_program(main, FLAGS, sys.argv, positional=("SPEC", "OUT")))
