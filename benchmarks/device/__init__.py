"""Measures round programs, and the same training written by hand, on a machine with only jax."""
