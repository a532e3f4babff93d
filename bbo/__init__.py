"""Batch Bridgeout and its relatives: train networks whose filters can be thrown away.

The library has rooms; import the one you need, for instance ``from bbo import noise, pruning``.
Importing ``bbo`` itself costs nothing.
"""

__version__ = "0.1.0"
