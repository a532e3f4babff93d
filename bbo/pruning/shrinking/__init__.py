"""A network of anyone's, pruned, mended and made smaller in one call."""
