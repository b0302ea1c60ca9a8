"""Rounds of simulated training: who takes part, on which batches, and what is recorded.

Import its modules by name; `network` is used where tff is not loaded.
"""
