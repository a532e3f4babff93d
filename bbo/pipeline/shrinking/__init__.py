"""A trained network made smaller: pruned to a goal, mended, rebuilt without dead channels."""
