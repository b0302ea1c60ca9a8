"""The binaries, for a checkout: `python -m experiments.train` is `tff-lowrank train`."""
