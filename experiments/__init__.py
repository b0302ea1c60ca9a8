"""The commands, for use in a checkout: `python -m experiments.train` is `tff-lowrank train`."""
