"""Simulated training: sampling of clients, batches, the loop over rounds, and checkpoints.

Import the modules by name; `network` does not need tff.
"""
