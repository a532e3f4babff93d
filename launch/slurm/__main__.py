"""``python -m launch.slurm``."""

import sys

from experiments.command_line.program import leave
from launch.slurm.program import run

leave(run(sys.argv))
