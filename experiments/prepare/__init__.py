"""Datasets prepared once: ``python -m experiments.prepare``."""
