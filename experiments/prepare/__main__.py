"""``python -m experiments.prepare``."""

from experiments.prepare.program import begin

begin()
