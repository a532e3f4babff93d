"""``python -m launch.slurm``."""

from launch.slurm.program import begin

begin()
