"""Federated data sets, and partitions of central data sets."""
