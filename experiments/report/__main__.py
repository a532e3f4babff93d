"""``python -m experiments.report``."""

from experiments.report.program import begin

begin()
