"""How a training step grows: ``python -m experiments.scale``."""
