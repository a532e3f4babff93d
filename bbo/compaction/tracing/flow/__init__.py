"""How primitives of JAX carry positions along axes, a rule for each."""
