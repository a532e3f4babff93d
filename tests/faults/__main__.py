"""``python -m tests.faults``."""

from experiments.command_line.program import start
from tests.faults.program import FLAGS, main

start(main, FLAGS)
