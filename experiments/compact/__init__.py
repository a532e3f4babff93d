"""A finished run made small: ``python -m experiments.compact``."""
