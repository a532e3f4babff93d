"""A function as the primitives that it is made of, and the channels that pass through them."""
