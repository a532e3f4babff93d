"""``python -m experiments.scale``."""

from experiments.scale.program import begin

begin()
