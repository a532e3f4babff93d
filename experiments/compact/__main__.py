"""``python -m experiments.compact``."""

from experiments.compact.program import begin

begin()
