r"""The paper's comparison under our protocol: dead filters, selection on held-out images.

  python -m launch.slurm experiments/sweeps/clean.py runs/clean --parallel=18 \
      -- --gres=gpu:1 --cpus-per-task=4 --time=12:00:00
  python -m launch.local experiments/sweeps/clean.py runs/clean --gpus=0,1,2,3
  python -m launch.status runs/clean

54 runs of 230 epochs: three networks, two datasets, three methods, three seeds. What they cost has
not been measured; a run that meets its time limit saves and goes on in another job. CIFAR-10 and
CIFAR-100 must have been prepared (experiments.prepare), in TFDS_DATA_DIR if that is set.
"""

from experiments.sweeps import published

SCRIPT = published.SCRIPT


def runs():
    """Flags of each run: those of published.py, so that the protocols differ and not the methods.

    None is tuned for any of the networks. Dropout is of all channel maps here, by the preset.
    """
    for flags in published.runs():
        yield {**flags, "preset": flags["preset"].replace("published/", "clean/")}
