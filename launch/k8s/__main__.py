"""``python -m launch.k8s``."""

from experiments.command_line.program import start
from launch.k8s.program import FLAGS, main

start(main, FLAGS, positional=("SPEC", "OUT"))
