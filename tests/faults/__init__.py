"""Real runs that are killed, damaged and given nonsense: ``python -m tests.faults --help``."""
