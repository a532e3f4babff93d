"""One experiment: train a network, prune it at every intensity, evaluate each, draw the curve.

  python -m experiments.run                                     digits, one minute, offline
  python -m experiments.run --noise=dropout --rate=0.1          the same with another regulariser
  python -m experiments.run --preset=published --data_dir=DIR   the paper's VGG-16 on CIFAR-10

The run leaves a folder (--workdir) with its configuration, metrics, checkpoints, curve.csv,
curve.png and summary.json. The same command again resumes an interrupted run, and only prints a
finished one. SIGTERM or Ctrl-C makes it save and stop; Ctrl-C again leaves at once. Exit status: 0
done, 1 the run failed, 2 a setting is wrong and nothing was written, 75 (SIGTERM) or 130 (Ctrl-C)
told to stop: the same command goes on from there.
"""

import itertools
import pathlib
from collections.abc import Sequence

from absl import flags

from bbo.files import write_json
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.memory import check_memory
from bbo.settings.method import repeated
from bbo.settings.tfds_folder import check_available
from bbo.settings.workdir import claim, default_workdir, is_done
from bbo.types import UsageError
from experiments import presets
from experiments.command_line import setting_flags, xla
from experiments.command_line.program import ends_at_once, parse, start

FLAGS = flags.FlagValues()
setting_flags.define_settings(FLAGS, presets.PRESETS)
flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run [default: one under runs/ for each configuration]",
    flag_values=FLAGS,
    module_name=" run",
)
flags.DEFINE_integer(
    "vmap_seeds",
    1,
    "train this many seeds from --seed on as one program, each in a folder of its own (for "
    "accelerators that one network leaves idle)",
    lower_bound=1,
    upper_bound=10_000,
    flag_values=FLAGS,
    module_name=" run",
)
flags.DEFINE_list(
    "vmap_rates",
    [],
    "likewise these strengths of the noise, in place of --rate; with --vmap_seeds, each with each",
    flag_values=FLAGS,
    module_name=" run",
)
flags.DEFINE_boolean(
    "distributed",
    False,
    "this process is one of many (srun, mpirun, TPU pod, Kubernetes) that train one network",
    flag_values=FLAGS,
    module_name=" run",
)


def check(argv: Sequence[str]) -> None:
    """Checks the settings that ``argv`` asks for, without looking at data or folders.

    Raises:
      UsageError: a setting is wrong.
    """
    parse(FLAGS, argv)
    runs_from(FLAGS)


def repeated_commands(commands: Sequence[Sequence[str]]) -> dict[int, int]:
    """Which of several commands, that ``check`` accepts, trains what an earlier one trains.

    Args:
      commands: each as for ``check``.

    Returns:
      By the number of the command, from 0, that of the earlier one.
    """
    owners, made = [], []
    for number, argv in enumerate(commands):
        parse(FLAGS, argv)
        for member in runs_from(FLAGS).values():
            owners.append(number)
            made.append(member)
    return {owners[late]: owners[early] for late, early in repeated(made).items()}


def main(values: flags.FlagValues) -> int:
    """Runs the experiment that the flags describe and shows its curve."""
    made = runs_from(values)
    for folder, member in made.items():
        claim(folder, member)
    data = next(iter(made.values())).data
    if not all(map(is_done, made)):
        check_available(data)
        check_memory(data)
    distributed = values["distributed"].value
    xla.prepare(fusions=data.dataset != "digits", distributed=distributed)
    # Only now the heavy part: a wrong setting is told within a second.
    from bbo.pipeline.curve_file import curve_table, subtitle, title
    from bbo.pipeline.experiment import run_experiment, run_members
    from bbo.training import preemption
    from bbo.training.devices import check_platform, is_first_process, join_processes

    if distributed:
        join_processes()
    check_platform()
    with preemption.watch(distributed=distributed) as should_stop, ends_at_once(distributed):
        results = (
            run_members(list(made.values()), list(made), should_stop)
            if len(made) > 1
            else [run_experiment(*made.values(), *made, should_stop)]
        )
    if not is_first_process():
        return 0
    whole = values["workdir"].value
    if whole and pathlib.Path(whole).expanduser() not in made:
        # For launchers: the run that they have started is done.
        names = [folder.name for folder in made]
        write_json(pathlib.Path(whole).expanduser() / "summary.json", {"runs": names})
    for member, result in zip(made.values(), results, strict=True):
        print(f"\n{title(member)}\n{subtitle(member)}")
        print("Test accuracy (%) by the share asked to be removed:\n")
        print(curve_table(result.curve))
        print(f"\nPlot:   {result.workdir / 'curve.png'}\nFolder: {result.workdir}")
    return 0


def runs_from(values: flags.FlagValues) -> dict[pathlib.Path, ExperimentConfig]:
    """The runs that parsed flags ask for, by folder.

    Raises:
      UsageError: a setting or the folder is wrong.
    """
    config = setting_flags.settings_from(values, presets.PRESETS)
    given = values["workdir"].value
    if given == "":  # an unset variable of a shell; Path("") would be the current folder
        raise UsageError("workdir is empty; name a folder, or leave the flag out")
    if given and "://" in given:
        raise UsageError(
            f"workdir {given} is not a folder; mount the bucket (gcsfuse), name its folder"
        )
    rates = setting_flags.numbers("vmap_rates", values["vmap_rates"].value)
    return members(config, given, values["vmap_seeds"].value, rates)


def members(
    config: ExperimentConfig, workdir: str | None, num_seeds: int, rates: Sequence[float] = ()
) -> dict[pathlib.Path, ExperimentConfig]:
    """The runs that are asked for, by folder: one, or several with seeds in a row and rates.

    Raises:
      UsageError: a seed or rate is out of range, a rate is there twice or has no effect.
    """
    if len(set(rates)) < len(rates):
        raise UsageError(f"vmap_rates is {','.join(map(str, rates))}; each must be there once")
    if rates and config.noise.noise == "none":
        raise UsageError("vmap_rates needs a regulariser, and noise is none")
    seeds = range(config.train.seed, config.train.seed + num_seeds)
    made = {}
    for rate, seed in itertools.product(rates or [config.noise.rate], seeds):
        parts = [f"rate_{rate}"] * bool(rates) + [f"seed_{seed}"] * (num_seeds > 1)
        made["_".join(parts)] = override(config, rate=rate, seed=seed)
    if repeated(list(made.values())):
        raise UsageError(f"vmap_rates has no effect: {config.noise.noise} has no rate")
    if workdir is None:
        return {default_workdir(member): member for member in made.values()}
    folder = pathlib.Path(workdir).expanduser()
    if "" not in made and (folder / "config.json").exists():
        raise UsageError(f"workdir {folder} holds a run itself; name another for several")
    return {folder / name: member for name, member in made.items()}


if __name__ == "__main__":
    start(main, FLAGS)
