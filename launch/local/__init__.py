"""A sweep on this machine: ``python -m launch.local``."""
