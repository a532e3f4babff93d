"""Tables and figures of many runs: ``python -m experiments.report``."""
