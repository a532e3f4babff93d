"""Several runs trained as one program are the runs that they would be alone."""

import itertools
import shutil

import jax
import numpy as np
import pytest
from small_run import records

from bbo.pipeline import loop, progress
from bbo.pipeline.experiment import run_experiment, run_members
from bbo.pipeline.run import set_up, training_batches
from bbo.pipeline.vmapped import check_alike, steps_of
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.workdir import is_finished
from bbo.training import preemption
from bbo.types import Preempted, UsageError
from experiments import run
from experiments.command_line.program import run_program
from experiments.report.finished_runs import find_runs

SMALL = override(
    ExperimentConfig(),
    noise="dropout",  # batch_bridgeout is looked at step by step
    epochs=3,
    batch_size=256,
    width=0.25,
    learning_rate=1e-3,  # a large one makes rounding grow from step to step
    target_fraction=1.0,  # ranks change with the last bit of a weight
    sparsities=(0.0, 0.5),
    granularity=("filter",),
)
ALIKE = [override(SMALL, seed=seed, rate=rate) for seed, rate in ((0, 0.1), (7, 0.1), (7, 0.4))]


@pytest.mark.slow
def test_each_member_takes_its_own_steps():
    configs = [override(config, noise="batch_bridgeout", batch_size=64) for config in ALIKE]
    made = [set_up(configs[0])]
    made += [set_up(config, like=made[0]) for config in configs[1:]]
    alone = []
    for one in made:
        state, losses = progress.beginning(one).state, []
        for batch, _ in zip(training_batches(one, 1), range(5), strict=False):
            state, metrics = one.programs.train(state, one.images["train"], batch)
            losses.append(float(metrics["loss"]))
        alone.append((losses, jax.tree.map(np.asarray, (state.params, state.batch_stats))))
    steps = steps_of(made)
    group = steps.join([progress.beginning(one) for one in made])
    poll = preemption.poller(preemption.never)
    *_, group = itertools.islice(loop.advance(made, group, steps, [], poll, lambda *_: None), 5)
    assert len({tuple(losses) for losses, _ in alone}) == 3
    for (losses, expected), member in zip(alone, steps.part(group), strict=True):
        found = [float(step["loss"]) for step in member.collected]
        np.testing.assert_allclose(found, losses, rtol=1e-6)
        state = (member.state.params, member.state.batch_stats)
        for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folders of two runs that were trained as one program."""
    root = tmp_path_factory.mktemp("runs") / "together"
    folders = [root / str(index) for index in range(2)]
    run_members(ALIKE[:2], folders)
    return folders


@pytest.mark.slow
def test_each_member_leaves_the_record_of_a_run_of_its_own(together, tmp_path):
    for config, folder in zip(ALIKE, together, strict=False):
        alone = tmp_path / "alone" / folder.name
        run_experiment(config, alone)
        assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
        for mine, theirs in zip(records(folder), records(alone), strict=True):
            assert mine.keys() == theirs.keys()
            np.testing.assert_allclose(mine["train_loss"], theirs["train_loss"], rtol=1e-5)


@pytest.mark.slow
def test_members_that_were_stopped_go_on_together_or_alone(together, tmp_path):
    stopped = [tmp_path / str(index) for index in range(2)]
    # An epoch is five steps, a batch of validation for each member, and its end.
    for stop in (3, 8):
        with pytest.raises(Preempted):
            run_members(ALIKE[:2], stopped, lambda count: count == stop)  # noqa: B023
    run_members(ALIKE[:2], stopped)
    for folder, expected in zip(stopped, together, strict=True):
        assert records(folder) == records(expected)
        assert (folder / "curve.csv").read_bytes() == (expected / "curve.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("lacks", [0, 1])
def test_a_checkpoint_that_some_members_lack_is_made_again(lacks, together, tmp_path):
    killed = [tmp_path / str(index) for index in range(2)]
    with pytest.raises(Preempted):
        run_members(ALIKE[:2], killed, lambda count: count == 8)
    newest = sorted((killed[lacks] / "checkpoints").iterdir(), key=lambda path: int(path.name))[-1]
    shutil.rmtree(newest)
    run_members(ALIKE[:2], killed)
    for folder, expected in zip(killed, together, strict=True):
        assert records(folder) == records(expected)
        assert (folder / "curve.csv").read_bytes() == (expected / "curve.csv").read_bytes()


@pytest.mark.slow
def test_members_of_which_one_was_trained_on_go_on_alone(tmp_path, capsys):
    apart = [tmp_path / str(index) for index in range(2)]
    with pytest.raises(Preempted):
        run_members(ALIKE[:2], apart, lambda count: count == 6)  # before the first validation
    for stop in (8, 10):  # at the end of the epoch, and in the next
        with pytest.raises(Preempted):
            run_experiment(ALIKE[0], apart[0], lambda count: count == stop)  # noqa: B023
    assert [len(records(folder)) for folder in apart] == [1, 0]
    results = run_members(ALIKE[:2], apart)
    assert "trained further than others: each goes on alone" in capsys.readouterr().err
    assert [result.workdir for result in results] == apart
    assert [len(records(folder)) for folder in apart] == [3, 3]


def test_what_is_not_alike_is_refused():
    check_alike(ALIKE)
    with pytest.raises(UsageError, match="may differ in seed and rate only"):
        check_alike([SMALL, override(SMALL, q=1.0)])


@pytest.mark.slow
def test_the_program_gives_each_seed_a_folder(tmp_path, capsys):
    arguments = ["run", f"--workdir={tmp_path}", "--vmap_seeds=2", "--seed=5", "--epochs=1"]
    arguments += ["--batch_size=256", "--width=0.25", "--granularity=filter", "--sparsities=0"]
    for _ in range(2):  # the second time they are only read
        assert run_program(run.main, run.FLAGS, arguments) == 0
        out = capsys.readouterr().out
        assert "of seed 5," in out and "of seed 6," in out
    assert {path.name for path in tmp_path.iterdir()} == {"seed_5", "seed_6", "summary.json"}
    assert is_finished(tmp_path)
    assert [found.name for found in find_runs([tmp_path]).runs] == [
        f"{tmp_path.name}/seed_{seed}" for seed in (5, 6)
    ]
    assert not find_runs([tmp_path]).left_out
    other = [*arguments, "--parallel=pmap", f"--workdir={tmp_path / 'other'}"]
    assert run_program(run.main, run.FLAGS, other) == 2
    assert "several seeds in one program need parallel=jit" in capsys.readouterr().err


def test_members_differ_in_seed_and_rate():
    def made(*arguments, **settings):
        config = override(SMALL, noise="dropout", rate=0.5, seed=3, **settings)
        found = run.members(config, *arguments)
        return {str(path): (one.train.seed, one.noise.rate) for path, one in found.items()}

    assert made("a", 1) == {"a": (3, 0.5)}
    assert made("a", 2) == {"a/seed_3": (3, 0.5), "a/seed_4": (4, 0.5)}
    assert made("a", 1, [0.1, 0.2]) == {"a/rate_0.1": (3, 0.1), "a/rate_0.2": (3, 0.2)}
    assert made("a", 2, [0.1]) == {"a/rate_0.1_seed_3": (3, 0.1), "a/rate_0.1_seed_4": (4, 0.1)}
    assert len(made(None, 2, [0.1, 0.2])) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--vmap_rates=0.1,x", "numbers separated by commas"),
        ("--vmap_rates=0.1,0.1", "each must be there once"),
        ("--vmap_rates=0.1,2", "in (0, 1)"),
        ("--vmap_rates=0.1,0.2 --noise=none", "needs a regulariser"),
        ("--vmap_seeds=2 --seed=4294967295", "it must be a number of 4294967295 at most"),
    ],
)
def test_members_that_cannot_be_are_refused(arguments, told, tmp_path, capsys):
    argv = ["run", f"--workdir={tmp_path / 'new'}", *arguments.split()]
    assert run_program(run.main, run.FLAGS, argv) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_holds_one_run_or_several(tmp_path, capsys):
    argv = ["run", f"--workdir={tmp_path}", "--vmap_seeds=2"]
    (tmp_path / "config.json").write_text("{}")
    assert run_program(run.main, run.FLAGS, argv) == 2
    assert "holds a run itself" in capsys.readouterr().err
    (tmp_path / "config.json").rename(tmp_path / "summary.json")  # as several leave it
    assert run_program(run.main, run.FLAGS, argv[:2]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json"}
