"""``python -m experiments.report``."""

import sys

from experiments.command_line.program import start
from experiments.report.program import FLAGS, main, positional

start(main, FLAGS, positional=positional(sys.argv))
