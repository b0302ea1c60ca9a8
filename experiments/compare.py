"""`python -m experiments.compare`: see `tff_lowrank.cli.compare`."""

from tff_lowrank.cli import compare

if __name__ == '__main__':
  compare.run()
