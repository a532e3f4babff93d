"""``python -m experiments.benchmark``."""

from experiments.benchmark.program import FLAGS, main
from experiments.command_line.program import start

start(main, FLAGS)
