"""`python -m experiments.train`: see `tff_lowrank.cli.train`."""

from tff_lowrank.cli import train

if __name__ == '__main__':
  train.run()
