"""``python -m experiments.prepare``."""

from experiments.command_line.program import start
from experiments.prepare.program import FLAGS, main

start(main, FLAGS)
