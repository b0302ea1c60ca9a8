"""Round programs and the same training by hand, measured on a machine that has jax alone."""
