"""`python -m experiments.tune`: see `tff_lowrank.cli.tune`."""

from tff_lowrank.cli import tune

if __name__ == '__main__':
  tune.run()
