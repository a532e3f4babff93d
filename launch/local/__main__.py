"""``python -m launch.local``."""

from experiments.command_line.program import start
from launch.local.program import FLAGS, main

start(main, FLAGS, positional=("SPEC", "OUT"))
