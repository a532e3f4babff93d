"""``python -m launch.local``."""

from launch.local.program import begin

begin()
