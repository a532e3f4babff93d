"""``python -m experiments.scale``."""

from experiments.command_line.program import start
from experiments.scale.program import FLAGS, main

start(main, FLAGS)
