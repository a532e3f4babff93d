"""``python -m launch.k8s``."""

from launch.k8s.program import begin

begin()
