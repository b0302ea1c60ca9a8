"""`python -m experiments.gradient_space`: see `tff_lowrank.cli.gradient_space`."""

from tff_lowrank.cli import gradient_space

if __name__ == '__main__':
  gradient_space.run()
