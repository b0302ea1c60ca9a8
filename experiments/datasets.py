"""`python -m experiments.datasets`: see `tff_lowrank.cli.datasets`."""

from tff_lowrank.cli import datasets

if __name__ == '__main__':
  datasets.run()
