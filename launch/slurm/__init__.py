"""A sweep on SLURM: ``python -m launch.slurm``."""
