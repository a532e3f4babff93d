"""Training steps and pruning curves timed: ``python -m experiments.benchmark``."""
