"""``python -m experiments.compact``."""

from experiments.command_line.program import start
from experiments.compact.program import FLAGS, main

start(main, FLAGS)
