"""``python -m experiments.benchmark``."""

from experiments.benchmark.program import begin

begin()
