"""Federated data sets, and partitions of central ones."""
