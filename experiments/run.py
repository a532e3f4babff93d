"""One experiment: train a network, prune it at every intensity, evaluate each, draw the curve.

  python -m experiments.run                                     digits, one minute, offline
  python -m experiments.run --noise=dropout --rate=0.1          the same with another regulariser
  python -m experiments.run --preset=published --data_dir=DIR   the paper's VGG-16 on CIFAR-10

The run leaves a folder (--workdir) with its configuration, metrics, checkpoints, curve.csv,
curve.png and summary.json. The same command again resumes an interrupted run, and only prints a
finished one. Exit status: 0 done, 1 the run failed, 2 a setting is wrong and nothing was written.
"""

import pathlib
import sys

from absl import flags

from bbo import prepared
from bbo import workdir as workdirs
from bbo.types import UsageError
from experiments import cli, configs, options

FLAGS = flags.FlagValues()
options.define_settings(FLAGS, configs.PRESETS)
flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run [default: one under runs/ for each configuration]",
    flag_values=FLAGS,
    module_name=" run",
)


def main(values: flags.FlagValues) -> int:
    """Runs the experiment that the flags describe and shows its curve."""
    config = options.settings_from(values, configs.PRESETS)
    given = values["workdir"].value
    if given == "":  # an unset variable of a shell; Path("") would be the current folder
        raise UsageError("workdir is empty; name a folder, or leave the flag out")
    workdir = pathlib.Path(given).expanduser() if given else workdirs.default_workdir(config)
    workdirs.claim(workdir, config)
    if not workdirs.is_finished(workdir):
        prepared.check_available(config.data)
    # Only now the heavy part: a wrong setting is told within a second.
    from bbo import pipeline, report

    result = pipeline.run_experiment(config, workdir)
    print(f"\n{report.title(config)}\n{report.subtitle(config)}")
    print("Test accuracy (%) by the share asked to be removed:\n")
    print(report.curve_table(result.curve))
    print(f"\nPlot:   {result.workdir / 'curve.png'}\nFolder: {result.workdir}")
    return 0


if __name__ == "__main__":
    cli.leave(cli.run_program(main, FLAGS, sys.argv))
