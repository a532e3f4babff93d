"""Every mistake in a sweep ends in one clear line before anything is written."""

import pytest
from mistakes import check_told

from bbo.types import UsageError
from experiments.command_line.program import run_program
from launch import sweep


def command(*argv):
    return run_program(sweep.main, sweep.FLAGS, ["sweep", *argv], positional=("SPEC", "OUT"))


def check_refused(capsys, path, out, message):
    assert command(str(path), str(out)) == 2
    check_told(capsys, message.format(spec=path, out=out))
    assert not out.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "there is no spec {spec}; name a Python file with SCRIPT and runs()"),
        ("def runs(): yield {}", "{spec} has no SCRIPT; it needs SCRIPT and runs()"),
        ("SCRIPT = 'held_run'", "{spec} has no runs; it needs SCRIPT and runs()"),
        ("SCRIPT = 'held_run'\nruns = 3", "{spec} fails: TypeError: 'int' object is not callable"),
        ("SCRIPT =", "{spec} fails: SyntaxError: invalid syntax"),
        ("import no_such", "{spec} fails: ModuleNotFoundError: No module named 'no_such'"),
        ("{}['seed']", "{spec} fails: KeyError: 'seed'"),
        (
            "SCRIPT = 'held_run'\ndef runs():\n  yield {}\n  1 / 0",
            "{spec} fails: ZeroDivisionError: division by zero",
        ),
        ("SCRIPT = 'no.such'\ndef runs(): yield {}", "{spec}: SCRIPT 'no.such' cannot be imported"),
        ("SCRIPT = 3\ndef runs(): yield {}", "{spec}: SCRIPT 3 cannot be imported"),
    ],
)
def test_what_is_no_spec(tmp_path, out, capsys, text, message):
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    check_refused(capsys, path, out, message)


@pytest.mark.parametrize(
    "runs, message",
    [
        ([], "{spec}: runs() yields no run"),
        (["seed"], "run 0 of {spec} is 'seed'; it must be a dict of flags"),
        ([{"seed": 0}, {"seed": 0}], "run 1 of {spec} is the same as run 0; list each once"),
        ([{"a": 0, "b": 1}, {"b": 1, "a": 0}], "run 1 of {spec} is the same as run 0"),
        ([{"workdir": "x"}], "run 0 of {spec} sets workdir, which the launcher does; leave it out"),
        ([{"distributed": True}], "run 0 of {spec} sets distributed"),
        ([{"seed": None}], "run 0 of {spec}: seed is None; it must be text, a number or a list"),
        ([{"seed": {}}], "run 0 of {spec}: seed is {{}}; it must be text, a number or a list"),
        ([{"rate": [0.1, [0.2]]}], "run 0 of {spec}: rate is [0.1, [0.2]]; it must be text"),
        ([{3: "seed"}], "run 0 of {spec} has 3 for the name of a flag; it must be text"),
    ],
)
def test_what_is_no_run(spec, out, capsys, runs, message):
    check_refused(capsys, spec(runs), out, message)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sed": 3}, "run 1 of {spec}: Unknown command line flag 'sed'"),
        ({"rate": 3.0}, "run 1 of {spec}: rate is 3.0; it must be in (0, 1)"),
        ({"noise": "drop"}, "run 1 of {spec}: flag --noise=drop"),
        ({"augment": "maybe"}, "run 1 of {spec}: flag --augment=maybe"),
        ({"select": "best_validation", "validation_fraction": 0}, "run 1 of {spec}: select is"),
    ],
)
def test_wrong_flags_are_found_when_the_sweep_is_frozen(spec, out, capsys, values, message):
    path = spec([{"seed": 0}, values], script="experiments.run")
    check_refused(capsys, path, out, message)


def test_a_folder_that_cannot_be_written(spec, out, capsys):
    out.write_text("a file")
    assert command(str(spec([{}])), str(out)) == 2
    assert (
        f"error: {out} cannot be made or written: File exists; name another"
        in capsys.readouterr().err
    )


def test_runs_that_another_launcher_has_frozen_meanwhile_stay(spec, out):
    path = spec([{"seed": 1}])
    planned = sweep.plan(path, out)
    others = sweep.freeze(spec([{"seed": 0}]), out)
    with pytest.raises(UsageError, match="run 0 of .* is seed=0 there and now seed=1"):
        sweep.write(path, out, planned)
    assert sweep.read_runs(out) == others


@pytest.mark.parametrize(
    "runs, told",
    [
        ([{"noise": "none", "rate": rate} for rate in (0.1, 0.2)], "run 1 of {spec}, noise=none"),
        ([{"seed": 0}, {"seed": 1}, {}], "run 2 of {spec}, (no flags), trains what run 0 does"),
        ([{"seed": seed, "vmap_seeds": 3} for seed in (0, 2)], "run 1 of {spec}, seed=2,vmap_s"),
        ([{}, {"sparsities": [0, 0.5]}], "trains what run 0 does, (no flags)"),
    ],
)
def test_one_network_is_trained_once(spec, out, capsys, runs, told):
    check_refused(capsys, spec(runs, script="experiments.run"), out, told)


def test_a_sweep_that_was_begun_with_repetitions_goes_on(spec, out, monkeypatch):
    path = spec([{"seed": 0}, {}], script="experiments.run")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_check_repeated", lambda *_, **__: None)
        sweep.freeze(path, out)
    assert len(sweep.plan(path, out)) == 2


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_what_no_command_can_hold_is_refused(spec, out, capsys, text):
    path = spec([{"seed": 0}, {"data_dir": text}])
    check_refused(capsys, path, out, "run 1 of {spec}: data_dir is " + repr(text))
    check_refused(capsys, path, out.with_name("out\udcff"), "is not UTF-8; give names that are")
